"""Private servers for tests and the demo: databases here, a directory in ``tests.slapd``.

Each server has its own data directory and a port of its own on 127.0.0.1, and is gone when the process that
started it is gone, however that ended. Owns processes and files; knows neither Django nor a database driver
and speaks to a server only through the server's own client program.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

from tests import processes

HOST = "127.0.0.1"
USER = "app"
PASSWORD = "app-secret"
START_SECONDS = 60.0
CLIENT_SECONDS = 60.0
POLL_SECONDS = 0.02


class ServerError(Exception):
    """A server or its client program failed; the message ends with what that program said."""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listens on, outside the range of ephemeral ports.

    Inside that range a client that tries to reach a stopped server could take the server's port, or even
    connect to itself.
    """
    try:
        lowest_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        lowest_ephemeral = 32768
    candidates = range(min(10_000, lowest_ephemeral // 2), lowest_ephemeral)
    for port in random.SystemRandom().sample(candidates, min(200, len(candidates))):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        return port
    raise ServerError(f"no free TCP port on {HOST} between {candidates[0]} and {candidates[-1]}")


class Server:
    """A server that can be started, stopped, killed and frozen; use it as a context manager."""

    scheme: ClassVar[str]
    accounts: ClassVar[tuple[str, ...]]
    stop_signal: ClassVar[int]

    host = HOST

    def __init__(self, extra: Iterable[str] = ()) -> None:
        self.extra = list(extra)
        self.port = free_port()
        self._account = _unprivileged_account(self.accounts)
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @classmethod
    def find(cls) -> str | None:
        """The path of the server's binary, or None unless everything it needs is installed."""
        raise NotImplementedError

    def _initialise(self) -> None:
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _check(self) -> None:
        """Raise ServerError unless the server answers its own client program."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id of the server's main process."""
        if self._process is None:
            raise ServerError(f"{type(self).__name__} on port {self.port} is not running")
        return self._process.pid

    @property
    def directory(self) -> Path:
        if self._directory is None:
            raise ServerError(f"{type(self).__name__} on port {self.port} has not been started yet")
        return self._directory

    @property
    def log(self) -> Path:
        """The server's error log."""
        return self.directory / "server.log"

    @property
    def certificate(self) -> Path:
        """The server's self-signed certificate, for a client that verifies it (unless tls=False)."""
        return self.directory / "certificate.pem"

    def start(self) -> None:
        """Start the server, on the same port and data as before, and return when it answers."""
        if self._process is not None:
            if self._process.poll() is None:
                raise ServerError(f"{type(self).__name__} on port {self.port} runs already, pid {self.pid}")
            self._forget_process()
        if self._directory is None:
            self._make_directory()
            self._initialise()
        with self.log.open("ab") as log:
            self._process = self._popen(self._command(), stdout=log, stderr=subprocess.STDOUT)
        processes.pid_file(self.directory).write_text(f"{self.pid} {self.stop_signal}")
        self._wait_until_it_answers()

    def stop(self) -> None:
        """Shut the server down cleanly without waiting for its clients; nothing happens if it is down."""
        if self._process is None:
            return
        processes.end(self.pid, self.stop_signal)
        self._forget_process()

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        """End all of the server's processes at once, as a crash would."""
        processes.kill(self.pid)
        self._forget_process()

    def suspend(self) -> None:
        """Freeze the server: it still holds its connections, the kernel still accepts, nothing answers."""
        processes.suspend(self.pid)

    def resume(self) -> None:
        for pid in processes.family(self.pid):
            processes.send(pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop the server and remove its data."""
        self.stop()
        if self._guard is not None:
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard.wait()
            self._guard = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _make_directory(self) -> None:
        parent = _reachable_parent(self._account)
        self._directory = Path(tempfile.mkdtemp(prefix=f"{self.scheme}-", dir=parent))
        self._guard = processes.start_guard(self._directory)
        if self._account is not None:
            os.chown(self._directory, self._account.pw_uid, self._account.pw_gid)

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self._process.poll() is not None:
                failure = f"ended with status {self._process.returncode}"
                break
            try:
                self._check()
            except ServerError as error:
                failure = f"did not answer within {START_SECONDS:.0f} s ({error})"
            else:
                return
            if time.monotonic() > deadline:
                processes.kill(self.pid)
                break
            time.sleep(POLL_SECONDS)
        self._forget_process()
        log = self.log.read_text(errors="replace")[-3000:]
        raise ServerError(f"{type(self).__name__} on port {self.port} {failure}. The end of its log:\n{log}")

    def _forget_process(self) -> None:
        assert self._process is not None
        self._process.wait()
        self._process = None
        processes.pid_file(self.directory).unlink()

    def _popen(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        if self._account is not None:
            options |= {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            cwd=self.directory,
            env=self._environment(),
            start_new_session=True,
            umask=0o077,
            **options,
        )

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.directory), "LC_ALL": "C"}

    def _run_set_up(self, command: list[str]) -> None:
        with self.log.open("ab") as log:
            process = self._popen(command, stdout=log, stderr=subprocess.STDOUT)
            try:
                status = process.wait()
            except BaseException:
                # Interrupted by Ctrl-C: it would go on to write into a directory that is being removed.
                processes.kill(process.pid)
                process.wait()
                raise
        if status:
            log_end = self.log.read_text(errors="replace")[-3000:]
            raise ServerError(f"{command[0]} ended with status {status}. The end of its log:\n{log_end}")

    def _run_client(self, command: list[str], text: str = "", **environment: str) -> str:
        try:
            client = subprocess.run(
                command,
                input=text,
                capture_output=True,
                encoding="utf-8",
                cwd=self.directory,
                env=self._environment() | environment,
                timeout=CLIENT_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise ServerError(f"{command[0]} took longer than {CLIENT_SECONDS:.0f} s: {text}") from error
        if client.returncode:
            raise ServerError(f"{command[0]} ended with status {client.returncode}: {client.stderr.strip()}")
        return client.stdout

    @property
    def _key(self) -> Path:
        return self.directory / "key.pem"

    def _make_certificate(self) -> None:
        command = [need("openssl"), "req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=localhost"]
        command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-addext", f"subjectAltName=DNS:localhost,IP:{self.host}"]
        command += ["-keyout", str(self._key), "-out", str(self.certificate)]
        self._run_set_up(command)


class DatabaseServer(Server):
    """A server of SQL databases, which offers TLS unless told not to. execute() does without."""

    user = USER
    password = PASSWORD

    def __init__(self, max_connections: int, extra: Iterable[str] = (), tls: bool = True) -> None:
        super().__init__(extra)
        self.max_connections = max_connections
        self.tls = tls

    def create(self, name: str) -> None:
        """Create the database unless it exists."""
        raise NotImplementedError

    def execute(self, sql: str, database: str | None = None) -> list[tuple[str, ...]]:
        """Run statements through the server's own client program and return the rows."""
        raise NotImplementedError

    def url(self, name: str) -> str:
        return f"{self.scheme}://{self.user}:{self.password}@{self.host}:{self.port}/{name}"

    def _check(self) -> None:
        self.execute("SELECT 1")


class MariaDB(DatabaseServer):
    """A MariaDB server, which takes a max_connections below 10 for 10.

    Since the user may do anything, it gets the one connection above max_connections too. execute() uses the
    extra port and works even when all connections are taken.
    """

    scheme = "mysql"
    accounts = ("mysql", "nobody")
    stop_signal = signal.SIGTERM

    def __init__(self, max_connections: int = 151, extra: Iterable[str] = (), tls: bool = True) -> None:
        super().__init__(max_connections, extra, tls)
        self.extra_port = free_port()

    @classmethod
    def find(cls) -> str | None:
        programs = [which(name) for name in ("mariadbd", "mariadb-install-db", "mariadb", "openssl")]
        return programs[0] if all(programs) else None

    def create(self, name: str) -> None:
        self.execute(f"CREATE DATABASE IF NOT EXISTS `{name}` CHARACTER SET utf8mb4")

    def execute(self, sql: str, database: str | None = None) -> list[tuple[str, ...]]:
        """Run statements and return the rows; NULL is the string "NULL"."""
        command = [need("mariadb"), "--no-defaults", "--batch", "--skip-column-names", "--skip-ssl"]
        command += ["--default-character-set=utf8mb4", "--protocol=tcp", f"--host={self.host}"]
        command += [f"--port={self.extra_port}", f"--user={self.user}"]
        command += [database] if database else []
        output = self._run_client(command, sql, MYSQL_PWD=self.password)
        return [tuple(_unescape(field) for field in line.split("\t")) for line in output.splitlines()]

    def _initialise(self) -> None:
        self._run_set_up(
            [
                need("mariadb-install-db"),
                "--no-defaults",
                f"--datadir={self.directory / 'data'}",
                f"--tmpdir={self.directory}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
                *self._fast_settings,
            ]
        )
        init_file = self.directory / "init.sql"
        init_file.write_text(
            f"CREATE USER IF NOT EXISTS '{self.user}'@'%' IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL PRIVILEGES ON *.* TO '{self.user}'@'%' WITH GRANT OPTION;\n"
        )
        init_file.chmod(0o644)
        if self.tls:
            self._make_certificate()

    @property
    def _fast_settings(self) -> list[str]:
        return [
            "--innodb-buffer-pool-size=16M",
            "--innodb-log-file-size=8M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            "--innodb-doublewrite=OFF",
            "--aria-pagecache-buffer-size=8M",
            "--key-buffer-size=1M",
        ]

    def _command(self) -> list[str]:
        command = [
            need("mariadbd"),
            "--no-defaults",
            f"--datadir={self.directory / 'data'}",
            f"--tmpdir={self.directory}",
            f"--socket={self.directory / 'server.sock'}",
            f"--pid-file={self.directory / 'server.pid'}",
            f"--init-file={self.directory / 'init.sql'}",
            f"--bind-address={self.host}",
            f"--port={self.port}",
            f"--extra-port={self.extra_port}",
            "--extra-max-connections=10",
            f"--max-connections={self.max_connections}",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--character-set-server=utf8mb4",
            "--innodb-buffer-pool-dump-at-shutdown=OFF",
            "--innodb-buffer-pool-load-at-startup=OFF",
            *self._fast_settings,
        ]
        if self.tls:
            command += ["--ssl", f"--ssl-cert={self.certificate}", f"--ssl-key={self._key}"]
        else:
            command += ["--skip-ssl"]
        return command + self.extra


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
        command = [self._program("psql"), "--no-psqlrc", "--csv", "--tuples-only", "--quiet", "--no-password"]
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

    def _program(self, name: str) -> str:
        directory = self._installation()
        if directory is None:
            raise ServerError("PostgreSQL is not installed: no directory has initdb, postgres and psql")
        return str(directory / name)

    def _initialise(self) -> None:
        password_file = self.directory / "password"
        password_file.write_text(self.password)
        password_file.chmod(0o644)
        command = [self._program("initdb"), f"--pgdata={self.directory / 'data'}", "--no-sync"]
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
        command = [self._program("postgres"), "-D", str(self.directory / "data")]
        command += [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        return command + self.extra


def which(program: str) -> str | None:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    return shutil.which(program, path=path)


def need(program: str) -> str:
    path = which(program)
    if path is None:
        raise ServerError(f"{program} is not installed")
    return path


def _unprivileged_account(names: Iterable[str]) -> pwd.struct_passwd | None:
    """The account that a server runs as, since database servers refuse to run as root; None unless root."""
    if os.geteuid() != 0:
        return None
    for name in names:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerError(f"a server cannot run as root, and none of these accounts exists: {', '.join(names)}")


def _reachable_parent(account: pwd.struct_passwd | None) -> str:
    """A directory for temporary files that the server's account can pass through."""
    preferred = tempfile.gettempdir()
    if account is None:
        return preferred
    for candidate in (preferred, "/tmp", "/var/tmp"):
        path = Path(candidate).resolve()
        if all(part.is_dir() and part.stat().st_mode & 0o001 for part in (path, *path.parents)):
            return candidate
    raise ServerError(f"the account {account.pw_name} can reach no directory for temporary files")


def _unescape(field: str) -> str:
    """Undo what the client program's batch mode does to special characters."""
    marks = {"n": "\n", "t": "\t", "0": "\0", "\\": "\\"}
    pieces = iter(field)
    return "".join(marks.get(next(pieces), "") if piece == "\\" else piece for piece in pieces)
