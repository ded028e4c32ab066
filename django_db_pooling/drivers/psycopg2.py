"""psycopg2: cooperative under gevent only with a wait callback."""

from __future__ import annotations

from typing import Any

from psycopg2 import OperationalError, extensions
from psycopg2.sql import Composable

from django_db_pooling.drivers import ending, errors
from django_db_pooling.drivers.base import Driver
from django_db_pooling.drivers.rules import POSTGRESQL
from django_db_pooling.process import green


class Psycopg2(Driver):
    rules = POSTGRESQL
    learned = ("isolation_level", "pg_version")
    told = ("isolation_level", "readonly", "deferrable", "cursor_factory", "string_types", "binary_types")

    def fileno(self, connection: Any) -> int | None:
        if connection.closed:
            return None
        fd: int = connection.fileno()
        return fd if fd >= 0 else None

    def in_transaction(self, connection: Any) -> bool:
        return bool(connection.info.transaction_status != extensions.TRANSACTION_STATUS_IDLE)

    def unread(self, connection: Any) -> bool:
        return bool(connection.info.transaction_status == extensions.TRANSACTION_STATUS_ACTIVE)

    def is_executing(self, connection: Any, error: BaseException | None) -> bool:
        # What is interrupted in a wait callback psycopg2 itself closes, and then it can't be cancelled.
        return not connection.closed and self.unread(connection)

    def end(self, connections: list[Any], seconds: float) -> None:
        """https://www.psycopg.org/docs/connection.html#connection.cancel"""
        for connection in connections:
            ending.by_cancel(self.fileno(connection), connection.cancel, seconds)

    def server_away(self, error: BaseException) -> bool:
        return isinstance(error, OperationalError) and errors.postgresql_server_away(error)

    def unfit(self, connection: Any, error: Any) -> str | None:
        return errors.postgresql_unfit(error, error.pgcode, connection.info.parameter_status)

    def takes_writes(self, connection: Any) -> bool | None:
        return errors.postgresql_takes_writes(connection.info.parameter_status)

    def rollback(self, connection: Any, seconds: float | None) -> None:
        # In autocommit mode psycopg2's rollback() does nothing, even after a BEGIN in the user's code.
        if connection.autocommit:
            with connection.cursor() as cursor:
                cursor.execute("ROLLBACK")
        else:
            connection.rollback()

    def text(self, sql: Any, connection: Any) -> str:
        return (
            str(sql.as_string(connection)) if isinstance(sql, Composable) else super().text(sql, connection)
        )

    def detach_cursor(self, cursor: Any) -> bool:
        if cursor.name is not None:
            return bool(cursor.closed)
        cursor.close()
        return True

    def advice(self) -> str | None:
        if not green.patched("socket") or extensions.get_wait_callback() is not None:
            return None
        return (
            "psycopg2 waits for the server in C code and blocks all greenlets meanwhile. "
            "Use psycopg 3 (pip install 'psycopg[binary]'), or psycogreen's patch_psycopg()."
        )


DRIVER = Psycopg2()
