"""mysqlclient: C, so it stops all greenlets of a thread while it waits for the server."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import MySQLdb
from MySQLdb import MySQLError, ProgrammingError, cursors

from django_db_pooling.drivers import ending, errors
from django_db_pooling.drivers.base import Driver, passed_through
from django_db_pooling.drivers.rules import MYSQL
from django_db_pooling.pool.slot import Slot
from django_db_pooling.process import green

# What read_timeout ends in, without TLS and with it.
_NO_ANSWER = ((2013,), (2026,))
# The connection's last error: server gone, server lost (three), killed, inactive for too long, shut down.
_LOST = frozenset({2006, 2013, 2026, 2055, 1927, 4031, 1053})
# Attribute of a connection: its descriptor, as it was when the connection was opened.
_DESCRIPTOR = "descriptor_for_pool"
# Two more, where its user may give a statement up: its session, and the parameters of connecting.
_SESSION, _PARAMS = "session_for_pool", "params_for_pool"
# Another one, of those that were asked.
_TAKES_WRITES = "takes_writes_for_pool"


# Not of the session through which others are ended.
_NOT_OURS = frozenset({"db", "database", "init_command", "sql_mode", "cursorclass"})


class MySQLClient(Driver):
    can_end = ends_elsewhere = True
    rules = MYSQL
    learned = ("isolation_level", "mysql_server_data")
    told = ("cursorclass", "converter", "encoders")

    def hub(self) -> object:
        return None

    def fileno(self, connection: Any) -> int | None:
        # When the server is lost, the C library closes its socket. The object stays "open" and keeps the
        # number, which may be another socket's by now.
        if not connection.open:
            return None
        fd: int | None
        try:
            fd = None if connection.errno() in _LOST else connection.fileno()
        except ProgrammingError:
            # Since mysqlclient 2.3, in a forked child: another thread was in the middle of a statement.
            fd = getattr(connection, _DESCRIPTOR, None)
        return fd if fd is not None and fd >= 0 else None

    def open(self, slot: Slot, make: Callable[[], Any], seconds: float | None) -> None:
        super().open(slot, make, seconds)
        setattr(slot.connection, _DESCRIPTOR, slot.connection.fileno())

    def connected(self, connection: Any, params: dict[str, Any], asks: bool = True) -> None:
        if params.get("read_timeout"):
            found = _rows(connection, f"SELECT {ending.SESSION}")[0] if asks else ()
            setattr(connection, _SESSION, ending.session(found, connection.thread_id()))
            setattr(connection, _PARAMS, params)

    # No label(): its connect() takes no attributes.

    def disconnect(self, connection: Any) -> None:
        if connection.open:
            connection.close()

    def in_transaction(self, connection: Any) -> bool | None:
        # Of the server's status flags mysqlclient gives only autocommit.
        return None if not connection.open or connection.get_autocommit() else True

    def unread(self, connection: Any) -> bool:
        if hasattr(connection, "more_results"):
            return bool(connection.more_results())
        # Before mysqlclient 2.3: reads the next result where there is one, does no I/O where there is none.
        try:
            return bool(connection.next_result() != -1)
        except MySQLError:
            return True

    def is_executing(self, connection: Any, error: BaseException | None) -> bool:
        # It can only be interrupted by its own read_timeout.
        return (
            isinstance(error, MySQLError) and error.args[:1] in _NO_ANSWER and hasattr(connection, _SESSION)
        )

    def end(self, connections: list[Any], seconds: float) -> None:
        """https://dev.mysql.com/doc/refman/8.4/en/kill.html"""
        found = [getattr(connection, _SESSION) for connection in connections]
        sessions = [session for session in found if session is not None]
        if sessions:
            _kill(getattr(connections[0], _PARAMS), sessions, seconds)
        if len(sessions) < len(connections):
            raise RuntimeError(ending.UNKNOWN)

    def server_away(self, error: BaseException) -> bool:
        return isinstance(error, MySQLError) and errors.mysql_server_away(error)

    def login_refused(self, error: BaseException) -> bool:
        return isinstance(error, MySQLError) and errors.mysql_login_refused(error)

    def server_full(self, error: BaseException) -> bool:
        return isinstance(error, MySQLError) and errors.mysql_server_full(error)

    def unfit(self, connection: Any, error: Any) -> str | None:
        return errors.mysql_unfit(error)

    def takes_writes(self, connection: Any) -> bool | None:
        return getattr(connection, _TAKES_WRITES, None)

    def interrupted(self, connection: Any, error: BaseException) -> bool:
        # Only between sending and storing the result, both in a cursor's _query.
        return any(
            code.co_filename == cursors.__file__ and code.co_name == "_query"
            for code in passed_through(error)
        )

    def detach_cursor(self, cursor: Any) -> bool:
        cursor = getattr(cursor, "cursor", cursor)
        cursor.connection = None
        return not isinstance(cursor, cursors.CursorUseResultMixIn)

    def server_timeout(self, connection: Any) -> float:
        seconds, read_only = _rows(connection, "SELECT @@wait_timeout, @@read_only")[0]
        setattr(connection, _TAKES_WRITES, read_only in errors.MYSQL_OFF)
        return float(seconds)

    def advice(self) -> str | None:
        if not green.patched("socket"):
            return None
        return (
            "mysqlclient waits for the server in C code and blocks all greenlets meanwhile. "
            "Use PyMySQL: pip install PyMySQL, then pymysql.install_as_MySQLdb() in settings.py."
        )


def _kill(params: dict[str, Any], sessions: list[ending.Session], seconds: float) -> None:
    most = max(1, math.ceil(seconds))
    params = {name: value for name, value in params.items() if name not in _NOT_OURS}
    params |= {"connect_timeout": most, "read_timeout": most, "write_timeout": most}
    killer = MySQLdb.connect(**params)
    try:
        ending.by_kill(partial(_rows, killer), sessions, seconds)
    finally:
        killer.close()


def _rows(connection: Any, sql: str) -> Any:
    with connection.cursor(cursors.Cursor) as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


DRIVER = MySQLClient()
