"""psycopg 3: cooperative under gevent when it is imported after the patching."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
from psycopg import ServerCursor, waiting
from psycopg import sql as composing
from psycopg.pq import ConnStatus, Escaping, ExecStatus, TransactionStatus

from django_db_pooling.drivers import ending, errors, sockets
from django_db_pooling.drivers.base import Driver
from django_db_pooling.drivers.rules import POSTGRESQL
from django_db_pooling.process import green

# poll() takes no longer timeouts (seconds).
MAX_WAIT = 3600.0
# Attribute of a connection: the time zone of its session, when it was opened.
_TIME_ZONE = "time_zone_for_pool"

# What DISCARD ALL has ended psycopg doesn't use any more since 3.3.5.
# https://www.psycopg.org/psycopg3/docs/news.html
_FORGETS = tuple(map(int, re.findall(r"\d+", psycopg.__version__)[:3])) >= (3, 3, 5)

# Before Python 3.12 a member of an Enum takes longer to look up than a function takes to call.
_OK, _IDLE, _ACTIVE = ConnStatus.OK, TransactionStatus.IDLE, TransactionStatus.ACTIVE


class Psycopg3(Driver):
    can_end = bool(getattr(getattr(psycopg, "capabilities", None), "has_cancel_safe", bool)())
    rules = POSTGRESQL
    learned = ("isolation_level", "pg_version")
    told = (
        "row_factory",
        "cursor_factory",
        "server_cursor_factory",
        "prepare_threshold",
        "prepared_max",
        "isolation_level",
        "read_only",
        "deferrable",
        "_notice_handlers",
        "_notify_handlers",
    )

    def fileno(self, connection: Any) -> int | None:
        if connection.pgconn.status != _OK:
            return None
        fd: int = connection.pgconn.socket
        return fd

    def disconnect(self, connection: Any) -> None:
        """Only shut down, where another thread is using the connection: psycopg's close() would free memory
        that it works with. An event loop, for example, closes the cursor of a request that was cancelled.
        """
        if connection.lock.acquire(blocking=False):
            try:
                connection.close()
            finally:
                connection.lock.release()
        else:
            sockets.shut_down(self.fileno(connection))

    def in_transaction(self, connection: Any) -> bool:
        return bool(connection.pgconn.transaction_status != _IDLE)

    def is_clean(self, connection: Any) -> bool:
        pgconn = connection.pgconn
        return bool(pgconn.transaction_status == _IDLE and pgconn.status == _OK)

    def unread(self, connection: Any) -> bool:
        return bool(connection.pgconn.transaction_status == _ACTIVE)

    def is_executing(self, connection: Any, error: BaseException | None) -> bool:
        pgconn = connection.pgconn
        return bool(pgconn.status == _OK and pgconn.transaction_status == _ACTIVE)

    def end(self, connections: list[Any], seconds: float) -> None:
        """https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS"""
        for connection in connections:
            # Before libpq 17 there is only cancel(): without a timeout, and it keeps the GIL.
            cancel = partial(connection.cancel_safe, timeout=seconds)
            ending.by_cancel(self.fileno(connection), cancel, seconds)

    def server_away(self, error: BaseException) -> bool:
        return isinstance(error, psycopg.OperationalError) and errors.postgresql_server_away(
            error, error.sqlstate
        )

    def login_refused(self, error: BaseException) -> bool:
        return isinstance(error, psycopg.OperationalError) and errors.postgresql_login_refused(error)

    def server_full(self, error: BaseException) -> bool:
        return isinstance(error, psycopg.OperationalError) and errors.postgresql_server_full(error)

    def unfit(self, connection: Any, error: Any) -> str | None:
        return errors.postgresql_unfit(error, error.sqlstate, connection.info.parameter_status)

    def takes_writes(self, connection: Any) -> bool | None:
        return errors.postgresql_takes_writes(connection.info.parameter_status)

    def usable(self, connection: Any, ask: Callable[[], bool], seconds: float | None) -> bool:
        """With a statement of our own: psycopg's would wait for as long as the server doesn't answer."""
        if seconds is None:
            return ask()
        try:
            return _answers(connection, b"SELECT 1", seconds)
        except psycopg.Error:
            return False

    def rollback(self, connection: Any, seconds: float | None) -> None:
        # As in usable(). After it psycopg's rollback() sends nothing.
        is_ours = connection.prepare_threshold is None and self.in_transaction(connection)
        if is_ours and not _answers(connection, b"ROLLBACK", seconds):
            raise psycopg.OperationalError("no answer to a rollback")
        connection.rollback()

    def reset(self, connection: Any, seconds: float | None) -> bool:
        """https://www.postgresql.org/docs/current/sql-discard.html"""
        prepares = connection.prepare_threshold is not None
        if prepares and not (_FORGETS and connection.autocommit):
            # psycopg would go on using statements that it has prepared.
            return False
        if not _answers(connection, b"DISCARD ALL", seconds):
            raise psycopg.OperationalError("no answer to a reset")
        if prepares:
            # This time psycopg sees it, and forgets them. It would wait for a server that is silent.
            with psycopg.Cursor(connection) as cursor:
                cursor.execute("DISCARD ALL", prepare=False)
        time_zone = getattr(connection, _TIME_ZONE)
        if time_zone and connection.info.parameter_status("TimeZone") != time_zone:
            # Django would do it with a cursor, and tracers would see a statement that is nobody's.
            literal = Escaping(connection.pgconn).escape_literal(time_zone.encode())
            _answers(connection, b"SET TIME ZONE " + literal, seconds)
        return True

    def text(self, sql: Any, connection: Any) -> str:
        if isinstance(sql, composing.Composable):
            return sql.as_string(connection)
        if isinstance(sql, bytes):
            return super().text(sql, connection)
        # A template, which psycopg knows since 3.3.
        return composing.as_string(sql, connection)

    def label(self, params: dict[str, Any], label: str) -> None:
        # Where neither they nor libpq's environment and files have an application_name.
        params.setdefault("fallback_application_name", label)

    def connected(self, connection: Any, params: dict[str, Any], asks: bool = True) -> None:
        setattr(connection, _TIME_ZONE, connection.info.parameter_status("TimeZone"))

    def detach_cursor(self, cursor: Any) -> bool:
        if isinstance(cursor, ServerCursor):
            # Its portal lives on in the session, and closing it is a round trip.
            return bool(cursor.closed)
        cursor.close()
        return True

    def references(self, cursor: Any, connection: Any) -> int:
        # What converts its rows has the connection, too.
        converter = getattr(cursor, "_tx", None)
        own = super().references(cursor, connection)
        return own if converter is None else own + super().references(converter, connection)

    def advice(self) -> str | None:
        if not green.patched("socket") or waiting.wait is not getattr(waiting, "wait_c", None):
            return None
        return (
            "psycopg was imported before gevent's patch: it waits in C code and blocks all greenlets "
            "meanwhile. Call gevent.monkey.patch_all() before anything imports psycopg."
        )


def _answers(connection: Any, statement: bytes, seconds: float | None) -> bool:
    """Whether the server executes this, in time. Another thread may be closing a cursor meanwhile."""
    if not connection.lock.acquire(timeout=MAX_WAIT if seconds is None else seconds):
        return False
    try:
        return _execute(connection.pgconn, statement, math.inf if seconds is None else seconds)
    finally:
        connection.lock.release()


def _execute(pgconn: Any, statement: bytes, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    pgconn.send_query(statement)
    pgconn.flush()
    done = True
    while True:
        while pgconn.is_busy():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            green.cooperative_wait(pgconn.socket, min(left, MAX_WAIT))
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            return bool(done and pgconn.status == _OK)
        done = done and result.status in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)


DRIVER = Psycopg3()
