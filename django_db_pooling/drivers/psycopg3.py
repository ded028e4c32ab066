"""psycopg 3: cooperative under gevent when it is imported after the patching."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import ServerCursor
from psycopg.pq import ConnStatus, TransactionStatus

from django_db_pooling import green
from django_db_pooling.drivers.base import Driver


class Psycopg3(Driver):
    learned = ("isolation_level", "pg_version")

    def fileno(self, connection: Any) -> int | None:
        if connection.pgconn.status != ConnStatus.OK:
            return None
        fd: int = connection.pgconn.socket
        return fd

    def in_transaction(self, connection: Any) -> bool:
        return bool(connection.pgconn.transaction_status != TransactionStatus.IDLE)

    def at_rest(self, connection: Any) -> bool:
        pgconn = connection.pgconn
        return bool(pgconn.transaction_status == TransactionStatus.IDLE and pgconn.status == ConnStatus.OK)

    def unread(self, connection: Any) -> bool:
        return bool(connection.pgconn.transaction_status == TransactionStatus.ACTIVE)

    def usable(self, connection: Any, ask: Callable[[], bool], seconds: float | None) -> bool:
        """A statement of our own, since psycopg's would wait for as long as the server is silent."""
        if seconds is None:
            return ask()
        pgconn = connection.pgconn
        deadline = time.monotonic() + seconds
        try:
            pgconn.send_query(b"SELECT 1")
            pgconn.flush()
            while pgconn.is_busy() or pgconn.get_result() is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                if pgconn.is_busy():
                    green.cooperative_wait(pgconn.socket, left)
                    pgconn.consume_input()
        except psycopg.Error:
            return False
        return bool(pgconn.status == ConnStatus.OK)

    def detach(self, cursor: Any) -> bool:
        if isinstance(cursor, ServerCursor):
            # Its portal lives on in the session, and closing it is a round trip.
            return bool(cursor.closed)
        cursor.close()
        return True


DRIVER = Psycopg3()
