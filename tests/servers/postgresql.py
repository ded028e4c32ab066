"""PostgreSQL, as the machine has it installed."""

from __future__ import annotations

import csv
import io
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from tests.servers.server import DatabaseServer, ServerError, which


class PostgreSQL(DatabaseServer):
    """A PostgreSQL server. Since the user is a superuser, no connection is reserved from it.

    Nor is one reserved for execute(), which fails when all connections are taken.
    """

    scheme = "postgres"
    accounts = ("postgres", "nobody")
    stop_signal = signal.SIGINT

    def __init__(self, max_connections: int = 100, extra: Iterable[str] = (), tls: bool = True) -> None:
        super().__init__(max_connections, extra, tls)

    @classmethod
    def find(cls) -> str | None:
        programs = cls._installation()
        return str(programs / "postgres") if programs and which("openssl") else None

    def create(self, name: str) -> None:
        if not self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
            self.execute(f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'UTF8'")

    def execute(self, sql: str, database: str | None = None) -> list[tuple[str, ...]]:
        """Run statements and return the rows; NULL is the empty string."""
        command = [self.program("psql"), "--no-psqlrc", "--csv", "--tuples-only", "--quiet", "--no-password"]
        command += ["--set=ON_ERROR_STOP=1", f"--host={self.host}", f"--port={self.port}"]
        command += [f"--username={self.user}", f"--dbname={database or 'postgres'}"]
        output = self._run_client(command, sql + "\n;", PGPASSWORD=self.password, PGSSLMODE="disable")
        return [tuple(row) for row in csv.reader(io.StringIO(output, newline=""))]

    @staticmethod
    def _installation() -> Path | None:
        """The directory of the newest installation that is complete; Debian keeps one for each version."""
        by_version = sorted(
            Path("/usr/lib/postgresql").glob("*/bin"),
            key=lambda path: [int(part) for part in path.parent.name.split(".") if part.isdigit()],
            reverse=True,
        )
        on_path = [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
        for directory in [*by_version, *on_path]:
            if all(os.access(directory / name, os.X_OK) for name in ("initdb", "postgres", "psql")):
                return directory
        return None

    @classmethod
    def program(cls, name: str) -> str:
        directory = cls._installation()
        if directory is None:
            raise ServerError("PostgreSQL is not installed: no directory has initdb, postgres and psql")
        return str(directory / name)

    def _initialise(self) -> None:
        password_file = self.directory / "password"
        password_file.write_text(self.password)
        password_file.chmod(0o644)
        command = [self.program("initdb"), f"--pgdata={self.directory / 'data'}", "--no-sync"]
        command += ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256"]
        command += [f"--username={self.user}", f"--pwfile={password_file}"]
        self._run_set_up(command)
        if self.tls:
            self._make_certificate()

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": self.max_connections,
            "dynamic_shared_memory_type": "mmap",
            "shared_buffers": "16MB",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
        }
        if self.tls:
            settings |= {"ssl": "on", "ssl_cert_file": self.certificate, "ssl_key_file": self._key}
        command = [self.program("postgres"), "-D", str(self.directory / "data")]
        command += [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        return command + self.extra
