"""psycopg 3: cooperative under gevent when it is imported after the patching."""

from __future__ import annotations

from typing import Any

from psycopg import ServerCursor
from psycopg.pq import ConnStatus, TransactionStatus

from django_db_pooling.drivers.base import Driver


class Psycopg3(Driver):
    name = "psycopg"
    learned = ("isolation_level", "pg_version")

    def fileno(self, connection: Any) -> int | None:
        if connection.pgconn.status != ConnStatus.OK:
            return None
        fd: int = connection.pgconn.socket
        return fd

    def in_transaction(self, connection: Any) -> bool:
        return bool(connection.pgconn.transaction_status != TransactionStatus.IDLE)

    def unread(self, connection: Any) -> bool:
        return bool(connection.pgconn.transaction_status == TransactionStatus.ACTIVE)

    def detach(self, cursor: Any) -> bool:
        if isinstance(cursor, ServerCursor):
            # Its portal lives on in the session, and closing it is a round trip.
            return bool(cursor.closed)
        cursor.close()
        return True


DRIVER = Psycopg3()
