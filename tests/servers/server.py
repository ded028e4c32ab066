"""What all servers have in common: processes, files, a port."""

from __future__ import annotations

import contextlib
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
