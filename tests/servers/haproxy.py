"""HAProxy, as the machine has it installed, in front of servers of which one has all clients."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from tests.servers.server import DatabaseServer, Server, ServerError, need, which

# Without a password, on the servers of MySQL's family.
CHECKER = "haproxy"
SOCKET_SECONDS = 10.0

# https://docs.haproxy.org/2.6/configuration.html
CONFIGURATION = """\
global
    maxconn 500
    stats socket {socket} mode 600 level admin

defaults
    mode tcp
    option redispatch 1
    timeout connect 2s
    timeout check 2s
    timeout client 10m
    timeout server 10m

listen database
    bind {host}:{port}
    option {check} user {user}
    default-server check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions
{servers}
"""


class HAProxy(Server):
    """New clients are led to the first of these servers that is up and ready: the others are its backups.

    A server of MySQL's family has to know the account CHECKER.
    """

    scheme = "haproxy"
    accounts = ("haproxy", "nobody")
    stop_signal = signal.SIGTERM

    def __init__(self, servers: Sequence[DatabaseServer]) -> None:
        super().__init__()
        self._servers = servers

    @classmethod
    def find(cls) -> str | None:
        return which("haproxy")

    def execute(self, command: str) -> str:
        """Give a command to the admin socket; its answer."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
            client.settimeout(SOCKET_SECONDS)
            try:
                client.connect(str(self._socket))
                client.sendall(command.encode() + b"\n")
                answer = b"".join(iter(lambda: client.recv(65536), b""))
            except OSError as error:
                raise ServerError(f"HAProxy can't be told: {command}") from error
        return answer.decode().strip()

    def set_state(self, server: DatabaseServer, state: str) -> None:
        """``state``: "ready"; "drain" leads only new clients elsewhere; "maint" cuts off the others, too."""
        answer = self.execute(f"set server database/{self._name(server)} state {state}")
        if answer:
            raise ServerError(answer)

    def _name(self, server: DatabaseServer) -> str:
        return f"on_{server.port}"

    def _check(self) -> None:
        self.execute("show info")

    def _initialise(self) -> None:
        first, *others = (
            f"    server {self._name(server)} {server.host}:{server.port}" for server in self._servers
        )
        self._configuration.write_text(
            CONFIGURATION.format(
                socket=self._socket,
                host=self.host,
                port=self.port,
                check="pgsql-check" if self._servers[0].scheme == "postgres" else "mysql-check",
                user=CHECKER,
                servers="\n".join([first, *(f"{other} backup" for other in others)]),
            )
        )
        self._configuration.chmod(0o644)

    def _command(self) -> list[str]:
        return [need("haproxy"), "-db", "-f", str(self._configuration)]

    @property
    def _configuration(self) -> Path:
        return self.directory / "haproxy.cfg"

    @property
    def _socket(self) -> Path:
        return self.directory / "admin.sock"
