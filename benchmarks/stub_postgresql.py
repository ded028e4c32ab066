"""Stands in for psycopg's connections: answers at once and counts. Nothing is sent anywhere."""

from __future__ import annotations

import socket
import threading
from typing import Any

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.pq import ConnStatus, TransactionStatus

from benchmarks.rows import TABLE, token
from benchmarks.stub_mysql import Counter, round_trip

ROWS: dict[str, tuple[Any, ...]] = {f'FROM "{TABLE}"': (1, token(1)), f"FROM {TABLE}": (1, token(1))}


class Libpq:
    """What is asked about the connection below psycopg's own."""

    def __init__(self) -> None:
        self.status = ConnStatus.OK
        self.transaction_status = TransactionStatus.IDLE
        self._near, self._far = socket.socketpair()
        self.socket = self._near.fileno()

    def finish(self) -> None:
        self.status = ConnStatus.BAD
        self._near.close()
        self._far.close()


class Info:
    server_version = 150000

    def __init__(self, pgconn: Libpq) -> None:
        self._pgconn = pgconn

    @property
    def transaction_status(self) -> TransactionStatus:
        return self._pgconn.transaction_status

    @staticmethod
    def parameter_status(name: str) -> str:
        return "UTC" if name == "TimeZone" else ""


class StubCursor:
    itersize = arraysize = 100
    rowcount = 1
    description = ("id", "text")
    closed = False

    def __init__(self, connection: StubConnection) -> None:
        self.connection = connection
        self.adapters = AdaptersMap(connection.adapters)
        self._rows: list[tuple[Any, ...]] = []

    def __enter__(self) -> StubCursor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def execute(self, sql: Any, params: Any = None, **options: Any) -> StubCursor:
        self.connection.begin()
        round_trip()
        row = next((row for part, row in ROWS.items() if part in str(sql)), (1,))
        self._rows = [row]
        return self

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def fetchmany(self, size: int = 0) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    fetchall = fetchmany

    def close(self) -> None:
        self.closed = True


class StubConnection:
    """psycopg sends BEGIN before a statement unless in autocommit, and ROLLBACK where one is open."""

    broken = False
    isolation_level: Any = None
    _pool: Any = None

    def __init__(self, **options: Any) -> None:
        self.pgconn = Libpq()
        self.info = Info(self.pgconn)
        context = options.get("context") or psycopg
        self.adapters = AdaptersMap(context.adapters)
        self.autocommit = bool(options.get("autocommit"))
        self.lock = threading.Lock()
        Counter.connects += 1

    @property
    def closed(self) -> bool:
        return self.pgconn.status == ConnStatus.BAD

    def cursor(self, *arguments: Any, **options: Any) -> StubCursor:
        return StubCursor(self)

    def execute(self, sql: Any, params: Any = None) -> StubCursor:
        return self.cursor().execute(sql, params)

    def fileno(self) -> int:
        return self.pgconn.socket

    def begin(self) -> None:
        if not self.autocommit and self.pgconn.transaction_status == TransactionStatus.IDLE:
            round_trip()
            self.pgconn.transaction_status = TransactionStatus.INTRANS

    def commit(self) -> None:
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            round_trip()
            self.pgconn.transaction_status = TransactionStatus.IDLE

    rollback = commit

    def set_autocommit(self, value: bool) -> None:
        self.autocommit = value

    def close(self) -> None:
        if not self.closed:
            self.pgconn.finish()


def install() -> None:
    """From now on ``psycopg.connect`` gives these, and so does psycopg_pool's default."""

    def connect(conninfo: str = "", **options: Any) -> StubConnection:
        return StubConnection(**options)

    psycopg.connect = connect  # type: ignore[assignment]
    psycopg.Connection.connect = connect  # type: ignore[assignment]
