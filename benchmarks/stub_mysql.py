"""A MySQL server inside of PyMySQL's socket: it answers at once and counts. The driver is the real one."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from benchmarks.rows import TABLE, token

COM_QUIT, COM_QUERY, COM_PING = 0x01, 0x03, 0x0E
AUTOCOMMIT = 0x0002
UTF8MB4 = 45
VARIABLES: dict[str, list[str]] = {
    "SELECT VERSION()": ["10.11.0-MariaDB", "STRICT_TRANS_TABLES", "InnoDB", "0", "0", "1"],
    "@@wait_timeout": ["28800"],
    "SELECT 1": ["1"],
    f"FROM {TABLE}": ["1", token(1)],
    f"FROM `{TABLE}`": ["1", token(1)],
}


class Counter:
    """Messages that were sent to the server and wait for an answer; ``connects`` are not among them."""

    round_trips = 0
    connects = 0


class Server:
    """``wait`` is called before each answer: nothing unless somebody makes it let other greenlets run."""

    wait: Callable[[], object] | None = None


def round_trip() -> None:
    Counter.round_trips += 1
    if Server.wait is not None:
        Server.wait()


class StubSocket:
    """As much of a socket as PyMySQL uses. Its descriptor is one on which nothing ever arrives."""

    def __init__(self) -> None:
        self._near, self._far = socket.socketpair()
        self._answer = b""
        self._at = 0
        self._status = AUTOCOMMIT
        self._logged_in = False
        Counter.connects += 1
        self._reply(0, _greeting())

    def sendall(self, data: bytes) -> None:
        if not self._logged_in:
            self._logged_in = True
            self._reply(data[3] + 1, self._ok())
            return
        command, argument = data[4], data[5:].decode()
        if command == COM_QUIT:
            return
        round_trip()
        if command == COM_QUERY:
            self._query(argument)
        else:
            self._reply(1, self._ok())

    def read(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        return self._answer[start : self._at]

    def makefile(self, mode: str) -> StubSocket:
        return self

    def fileno(self) -> int:
        return self._near.fileno()

    def close(self) -> None:
        self._near.close()
        self._far.close()

    def settimeout(self, seconds: float | None) -> None: ...

    def setsockopt(self, *option: int) -> None: ...

    def _query(self, sql: str) -> None:
        if sql.startswith("SET AUTOCOMMIT"):
            self._status = AUTOCOMMIT if sql.endswith("1") else 0
        values = next((values for part, values in VARIABLES.items() if part in sql), None)
        if values is None:
            self._reply(1, self._ok())
            return
        end = b"\xfe\x00\x00" + self._status.to_bytes(2, "little")
        columns = [_column(str(number)) for number in range(len(values))]
        row = b"".join(_text(value) for value in values)
        self._reply(1, bytes([len(values)]), *columns, end, row, end)

    def _ok(self) -> bytes:
        return b"\x00\x00\x00" + self._status.to_bytes(2, "little") + b"\x00\x00"

    def _reply(self, sequence: int, *payloads: bytes) -> None:
        packets = enumerate(payloads, sequence)
        self._answer = b"".join(
            len(payload).to_bytes(3, "little") + bytes([number % 256]) + payload
            for number, payload in packets
        )
        self._at = 0


def _text(value: str) -> bytes:
    return bytes([len(value)]) + value.encode()


def _column(name: str) -> bytes:
    """A VARCHAR."""
    names = _text("def") + _text("") * 3 + _text(name) * 2
    kind = UTF8MB4.to_bytes(2, "little") + (400).to_bytes(4, "little") + b"\xfd\x00\x00\x00\x00\x00"
    return names + b"\x0c" + kind


def _greeting() -> bytes:
    capabilities = 0x0008F7DF
    low, high = (capabilities & 0xFFFF).to_bytes(2, "little"), (capabilities >> 16).to_bytes(2, "little")
    version = b"\x0a5.5.5-10.11.0-MariaDB\x00"
    status = AUTOCOMMIT.to_bytes(2, "little")
    return (
        version
        + (1).to_bytes(4, "little")
        + b"saltsalt\x00"
        + low
        + bytes([UTF8MB4])
        + status
        + high
        + bytes([21])
        + bytes(10)
        + b"saltsaltsalt\x00"
        + b"mysql_native_password\x00"
    )


def install() -> None:
    """From now on PyMySQL finds this server wherever it connects."""
    import pymysql.connections

    class Sockets:
        """Stands in for the module ``socket`` in PyMySQL."""

        def __getattr__(self, name: str) -> Any:
            return getattr(socket, name)

        @staticmethod
        def create_connection(*arguments: Any, **options: Any) -> StubSocket:
            return StubSocket()

    pymysql.connections.socket = Sockets()
