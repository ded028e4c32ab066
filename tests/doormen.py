"""Proxies that understand some of their database's protocol, and refuse what they are told to.

They stand for ProxySQL, PgBouncer and others of their kind. Each connection has a thread of its own, or a
greenlet, where gevent has patched.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Self

from tests.servers import HOST

CHUNK_BYTES = 65_536

HANG_UP = "hang up"
# Answered as if it were done.
SWALLOW = "swallow"
# An error's number, or one of these.
Refusal = int | str


class Doorman:
    """Accepts connections for ``target``, a port; a context manager."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server((HOST, 0), backlog=100)
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            _shut(sock)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, struct.error):
            self.talk(client)

    @contextlib.contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """To the server."""
        with socket.create_connection((HOST, self._target)) as server:
            self._sockets.append(server)
            try:
                yield server
            finally:
                # Another thread may be reading.
                _shut(server)

    def talk(self, client: socket.socket) -> None:
        raise NotImplementedError


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(CHUNK_BYTES):
            target.sendall(chunk)
    _shut(source)
    _shut(target)


def _exactly(sock: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        chunk = sock.recv(count - len(found))
        if not chunk:
            raise ConnectionError
        found += chunk
    return found


class MySQLDoorman(Doorman):
    """https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html

    ``reset``, ``track``: what COM_RESET_CONNECTION and the SET of session tracking are answered with. None:
    they pass.
    """

    _TLS = 1 << 11
    reset: Refusal | None = None
    track: Refusal | None = None

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.asked: Counter[str] = Counter()
        self._old: tuple[float, Refusal] | None = None

    def refuse_what_is_open(self, refusal: Refusal) -> None:
        self._old = time.monotonic(), refusal

    def talk(self, client: socket.socket) -> None:
        since = time.monotonic()
        with self.connected() as server:
            # The greeting, which offers TLS no more, and the answer to it.
            number, greeting = _packet(server)
            capabilities = greeting.index(b"\0", 1) + 1 + 4 + 8 + 1
            low = int.from_bytes(greeting[capabilities : capabilities + 2], "little") & ~self._TLS
            greeting = greeting[:capabilities] + struct.pack("<H", low) + greeting[capabilities + 2 :]
            _send(client, number, greeting)
            _send(server, *_packet(client))
            threading.Thread(target=_pump, args=(server, client), daemon=True).start()
            while True:
                number, packet = _packet(client)
                refusal = self._refusal(packet, since) if number == 0 else None
                if refusal == HANG_UP:
                    _shut(client)
                    return
                if refusal is None:
                    _send(server, number, packet)
                elif refusal == SWALLOW:
                    _send(client, 1, b"\x00\x00\x00\x02\x00\x00\x00")
                else:
                    _send(client, 1, b"\xff" + struct.pack("<H", refusal) + b"#HY000refused by the doorman")

    def _refusal(self, packet: bytes, since: float) -> Refusal | None:
        self.asked["all"] += 1
        if b"@@" in packet:
            self.asked["@@"] += 1
        if packet == b"\x1f":
            self.asked["reset"] += 1
            return self.reset
        if b"session_track_state_change" in packet:
            self.asked["track"] += 1
            return self.track
        is_statement = packet[:1] == b"\x03"
        return self._old[1] if is_statement and self._old is not None and since < self._old[0] else None


def _packet(sock: socket.socket) -> tuple[int, bytes]:
    head = _exactly(sock, 4)
    return head[3], _exactly(sock, int.from_bytes(head[:3], "little"))


def _send(sock: socket.socket, number: int, packet: bytes) -> None:
    sock.sendall(len(packet).to_bytes(3, "little") + bytes([number]) + packet)


class PostgreSQLDoorman(Doorman):
    """https://www.postgresql.org/docs/current/protocol-message-formats.html

    Refuses so many logins with this FATAL error; ``is_encrypted``: ends them in the handshake of TLS instead.
    """

    _ENCRYPTION = (80877103, 80877104)
    _TLS = 80877103

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.left = 0
        self.code, self.text = "08P01", ""
        self.is_encrypted = False

    def refuse(self, logins: int, text: str, code: str = "08P01") -> None:
        self.left, self.code, self.text = logins, code, text

    def talk(self, client: socket.socket) -> None:
        while True:
            head = _exactly(client, 8)
            length, code = struct.unpack("!II", head)
            rest = _exactly(client, length - 8)
            if code not in self._ENCRYPTION:
                break
            if self.is_encrypted and code == self._TLS and self.left:
                self.left -= 1
                client.sendall(b"S")
                _exactly(client, 1)
                return
            client.sendall(b"N")
        if self.left and not self.is_encrypted:
            self.left -= 1
            fields = "".join(
                f"{name}{value}\0" for name, value in (("S", "FATAL"), ("C", self.code), ("M", self.text))
            )
            message = fields.encode() + b"\0"
            client.sendall(b"E" + struct.pack("!I", len(message) + 4) + message)
            return
        with self.connected() as server:
            server.sendall(head + rest)
            threading.Thread(target=_pump, args=(server, client), daemon=True).start()
            _pump(client, server)
