"""PgBouncer, as the machine has it installed, in front of a PostgreSQL server."""

from __future__ import annotations

import csv
import io
import signal
from pathlib import Path

from tests.servers.postgresql import PostgreSQL
from tests.servers.server import PASSWORD, USER, Server, need, which

# https://www.pgbouncer.org/config.html
MODES = ("transaction", "session")


class PgBouncer(Server):
    """Offers a database by the names of its pooling modes: whose connections the clients share."""

    scheme = "pgbouncer"
    accounts = ("postgres", "nobody")
    # It has nothing to lose. Since 1.23 SIGTERM waits for all clients, and before that SIGQUIT does.
    stop_signal = signal.SIGKILL

    user = USER
    password = PASSWORD

    def __init__(self, port: int, database: str, **settings: object) -> None:
        """``port``: of the server. ``settings``: PgBouncer's own."""
        super().__init__()
        self._target = f"host={self.host} port={port} dbname={database}"
        self._settings = settings

    @classmethod
    def find(cls) -> str | None:
        return which("pgbouncer") if PostgreSQL.find() else None

    def execute(self, command: str) -> list[tuple[str, ...]]:
        """Give a command to the console: PAUSE, RESUME, SHOW and others. Its rows."""
        client = [PostgreSQL.program("psql"), "--no-psqlrc", "--csv", "--tuples-only", "--quiet"]
        client += ["--no-password", "--set=ON_ERROR_STOP=1", f"--host={self.host}", f"--port={self.port}"]
        client += [f"--username={self.user}", "--dbname=pgbouncer", f"--command={command}"]
        output = self._run_client(client, PGPASSWORD=self.password, PGSSLMODE="disable")
        return [tuple(row) for row in csv.reader(io.StringIO(output, newline=""))]

    def _check(self) -> None:
        self.execute("SHOW VERSION")

    def _initialise(self) -> None:
        settings = {
            "listen_addr": self.host,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": self.directory / "users",
            "admin_users": self.user,
            "ignore_startup_parameters": "extra_float_digits",
            **self._settings,
        }
        lines = ["[databases]", *(f"{mode} = {self._target} pool_mode={mode}" for mode in MODES)]
        lines += ["[pgbouncer]", *(f"{name} = {value}" for name, value in settings.items())]
        self._ini.write_text("\n".join(lines) + "\n")
        users = self.directory / "users"
        users.write_text(f'"{self.user}" "{self.password}"\n')
        for file in (self._ini, users):
            file.chmod(0o644)

    def _command(self) -> list[str]:
        return [need("pgbouncer"), str(self._ini)]

    @property
    def _ini(self) -> Path:
        return self.directory / "pgbouncer.ini"
