"""MariaDB, as the machine has it installed, and MySQL, as ``tests/get_mysql.sh`` has unpacked it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

from tests.caches import cache_directory
from tests.servers.server import DatabaseServer, free_port, need, which


class MySQLFamily(DatabaseServer):
    """Since the user may do anything, it gets the one connection above max_connections too. execute() uses
    ``extra_port`` and works even when all connections are taken.
    """

    scheme = "mysql"
    accounts = ("mysql", "nobody")
    stop_signal = signal.SIGTERM
    client_options: tuple[str, ...] = ()

    def __init__(self, max_connections: int = 151, extra: Iterable[str] = (), tls: bool = True) -> None:
        super().__init__(max_connections, extra, tls)
        self.extra_port = free_port()

    def create(self, name: str) -> None:
        self.execute(f"CREATE DATABASE IF NOT EXISTS `{name}` CHARACTER SET utf8mb4")

    def execute(self, sql: str, database: str | None = None) -> list[tuple[str, ...]]:
        """Run statements and return the rows; NULL is the string "NULL"."""
        command = [need("mariadb"), "--no-defaults", "--batch", "--skip-column-names", *self.client_options]
        command += ["--default-character-set=utf8mb4", "--protocol=tcp", f"--host={self.host}"]
        command += [f"--port={self.extra_port}", f"--user={self.user}"]
        command += [database] if database else []
        output = self._run_client(command, sql, MYSQL_PWD=self.password)
        return [tuple(_unescape(field) for field in line.split("\t")) for line in output.splitlines()]

    def _initialise(self) -> None:
        self._run_set_up([*self._set_up_command(), *self._fast_settings()])
        init_file = self.directory / "init.sql"
        # For MySQL each line is a statement.
        init_file.write_text(
            f"CREATE USER IF NOT EXISTS '{self.user}'@'%' IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL PRIVILEGES ON *.* TO '{self.user}'@'%' WITH GRANT OPTION;\n"
        )
        init_file.chmod(0o644)
        if self.tls:
            self._make_certificate()

    def _set_up_command(self) -> list[str]:
        raise NotImplementedError

    def _fast_settings(self) -> list[str]:
        return [
            "--innodb-buffer-pool-size=16M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            "--innodb-doublewrite=OFF",
            "--key-buffer-size=1M",
        ]

    def _settings(self) -> list[str]:
        settings = [
            f"--datadir={self.directory / 'data'}",
            f"--tmpdir={self.directory}",
            f"--socket={self.directory / 'server.sock'}",
            f"--pid-file={self.directory / 'server.pid'}",
            f"--init-file={self.directory / 'init.sql'}",
            f"--bind-address={self.host}",
            f"--port={self.port}",
            f"--max-connections={self.max_connections}",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--character-set-server=utf8mb4",
            "--innodb-buffer-pool-dump-at-shutdown=OFF",
            "--innodb-buffer-pool-load-at-startup=OFF",
            *self._fast_settings(),
        ]
        if self.tls:
            settings += [f"--ssl-cert={self.certificate}", f"--ssl-key={self._key}"]
        return settings


class MariaDB(MySQLFamily):
    """A MariaDB server, which takes a max_connections below 10 for 10."""

    client_options = ("--skip-ssl",)

    @classmethod
    def find(cls) -> str | None:
        programs = [which(name) for name in ("mariadbd", "mariadb-install-db", "mariadb", "openssl")]
        return programs[0] if all(programs) else None

    def _set_up_command(self) -> list[str]:
        return [
            need("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={self.directory / 'data'}",
            f"--tmpdir={self.directory}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
        ]

    def _fast_settings(self) -> list[str]:
        more = ["--innodb-log-file-size=8M", "--aria-pagecache-buffer-size=8M"]
        return [*super()._fast_settings(), *more]

    def _command(self) -> list[str]:
        command = [need("mariadbd"), "--no-defaults", *self._settings()]
        command += [f"--extra-port={self.extra_port}", "--extra-max-connections=10"]
        command += ["--ssl" if self.tls else "--skip-ssl"]
        return command + self.extra


class MySQL(MySQLFamily):
    """A MySQL server as users have it: passwords by caching_sha2_password, and so always TLS.

    Its ``extra_port`` is the one for administrators.
    """

    def __init__(self, max_connections: int = 151, extra: Iterable[str] = ()) -> None:
        super().__init__(max_connections, extra)

    @classmethod
    def folder(cls) -> Path:
        """Where get_mysql.sh unpacks it. Root's own folders can't be passed by the server's account."""
        return (
            Path("/var/cache/django_db_pooling/mysql") if os.geteuid() == 0 else cache_directory() / "mysql"
        )

    @classmethod
    def find(cls) -> str | None:
        programs = [which(name) for name in (str(cls.folder() / "mysqld"), "mariadb", "openssl")]
        return programs[0] if all(programs) else None

    def _program(self) -> str:
        return need(str(self.folder() / "mysqld"))

    def _set_up_command(self) -> list[str]:
        command = [self._program(), "--initialize-insecure", f"--datadir={self.directory / 'data'}"]
        return [*command, f"--tmpdir={self.directory}"]

    def _fast_settings(self) -> list[str]:
        return [*super()._fast_settings(), "--innodb-redo-log-capacity=16M"]

    def _command(self) -> list[str]:
        command = [self._program(), *self._settings()]
        command += [f"--admin-address={self.host}", f"--admin-port={self.extra_port}"]
        command += ["--create-admin-listener-thread=ON", "--mysqlx=OFF", "--secure-file-priv="]
        return command + self.extra


def _unescape(field: str) -> str:
    """Undo what the client program's batch mode does to special characters."""
    marks = {"n": "\n", "t": "\t", "0": "\0", "\\": "\\"}
    pieces = iter(field)
    return "".join(marks.get(next(pieces), "") if piece == "\\" else piece for piece in pieces)
