"""psycopg2: cooperative under gevent only with a wait callback."""

from __future__ import annotations

import math
import time
import weakref
from contextlib import closing
from typing import Any, NamedTuple

import psycopg2
from psycopg2 import Error, OperationalError, extensions
from psycopg2.sql import Composable

from django_db_pooling.drivers import ending, errors, sockets
from django_db_pooling.drivers.base import Driver
from django_db_pooling.drivers.rules import POSTGRESQL
from django_db_pooling.process import green

_TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND client_port = %s "
    "AND usename = current_user AND extract(epoch FROM clock_timestamp() - backend_start) >= %s"
)


class Psycopg2(Driver):
    can_end = ends_elsewhere = True
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

    def label(self, params: dict[str, Any], label: str) -> None:
        # Where neither they nor libpq's environment and files have an application_name.
        params.setdefault("fallback_application_name", label)

    def connected(self, connection: Any, params: dict[str, Any], asks: bool = True) -> None:
        # It has no attributes of others.
        _backends[connection] = _Backend(
            connection.info.backend_pid,
            sockets.local_port(connection.fileno()),
            time.monotonic(),
            params,
        )

    def is_executing(self, connection: Any, error: BaseException | None) -> bool:
        if connection.closed:
            # psycopg2 itself closes one that is interrupted in a wait callback.
            return error is not None and not isinstance(error, Error)
        return self.unread(connection)

    def end(self, connections: list[Any], seconds: float) -> None:
        """From another connection: cancel() has no timeout, keeps the GIL, and needs an open connection."""
        backends = [found for connection in connections if (found := _backends.get(connection))]
        if not backends:
            return
        most = max(2, math.ceil(seconds))
        with closing(psycopg2.connect(**backends[0].params | {"connect_timeout": most})) as helper:
            helper.autocommit = True
            for backend in backends:
                _terminate(helper, backend)

    def server_away(self, error: BaseException) -> bool:
        return isinstance(error, OperationalError) and errors.postgresql_server_away(error, error.pgcode)

    def login_refused(self, error: BaseException) -> bool:
        return isinstance(error, OperationalError) and errors.postgresql_login_refused(error)

    def server_full(self, error: BaseException) -> bool:
        return isinstance(error, OperationalError) and errors.postgresql_server_full(error)

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


class _Backend(NamedTuple):
    """The server's process for a connection, opened ``at`` of ``time.monotonic()`` from this local port."""

    pid: int
    port: int
    at: float
    params: dict[str, Any]


_backends: weakref.WeakKeyDictionary[Any, _Backend] = weakref.WeakKeyDictionary()


def _terminate(helper: Any, backend: _Backend) -> None:
    """If this is the one: not another server's, and not one that has got its number since."""
    until = time.monotonic() + ending.MOST_LOOKS
    while time.monotonic() < until:
        age = time.monotonic() - backend.at
        with helper.cursor(cursor_factory=extensions.cursor) as cursor:
            cursor.execute(_TERMINATE, (backend.pid, backend.port, age))
            if not cursor.fetchall():
                return
        green.original("time", "sleep")(ending.LOOK_AGAIN)


DRIVER = Psycopg2()
