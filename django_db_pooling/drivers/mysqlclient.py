"""mysqlclient: C, so it stops all greenlets of a thread while it waits for the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from MySQLdb import MySQLError, ProgrammingError, cursors

from django_db_pooling.drivers import errors
from django_db_pooling.drivers.base import Driver, passed_through
from django_db_pooling.drivers.rules import MYSQL
from django_db_pooling.pool.slot import Slot
from django_db_pooling.process import green

# The connection's last error: server gone, server lost (two), killed, inactive for too long, shut down.
_LOST = frozenset({2006, 2013, 2055, 1927, 4031, 1053})
# Attribute of a connection: its descriptor, as it was when the connection was opened.
_DESCRIPTOR = "descriptor_for_pool"
# Another one, of those that were asked.
_TAKES_WRITES = "takes_writes_for_pool"


class MySQLClient(Driver):
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
        with connection.cursor(cursors.Cursor) as cursor:
            cursor.execute("SELECT @@wait_timeout, @@read_only")
            seconds, read_only = cursor.fetchone()
        setattr(connection, _TAKES_WRITES, read_only in errors.MYSQL_OFF)
        return float(seconds)

    def advice(self) -> str | None:
        if not green.patched("socket"):
            return None
        return (
            "mysqlclient waits for the server in C code and blocks all greenlets meanwhile. "
            "Use PyMySQL: pip install PyMySQL, then pymysql.install_as_MySQLdb() in settings.py."
        )


DRIVER = MySQLClient()
