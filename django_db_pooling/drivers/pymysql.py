"""PyMySQL: pure Python, cooperative under gevent."""

from __future__ import annotations

import contextlib
import math
import ssl
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pymysql
from pymysql.constants import SERVER_STATUS

from django_db_pooling.drivers import ending, errors, pymysql_killer, sockets, tls, trackers
from django_db_pooling.drivers.base import Driver, passed_through
from django_db_pooling.drivers.rules import MYSQL
from django_db_pooling.process import green

_CONNECTIONS = pymysql.connections.__file__
_NO_TRANSACTION = SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT
_TRANSACTION_FLAGS = SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT | SERVER_STATUS.SERVER_STATUS_IN_TRANS
_COM_RESET_CONNECTION = 0x1F
# https://dev.mysql.com/doc/dev/mysql-server/latest/group__group__cs__capabilities__flags.html and
# mysql__com_8h.html beside it. PyMySQL doesn't know them.
_CLIENT_SESSION_TRACK = 1 << 23
_SERVER_SESSION_STATE_CHANGED = 1 << 14
# Attribute of a connection: its session's state when it was opened.
_AT_FIRST = "at_first_for_pool"
# Another one: its character set, collation and encoding then, which set_character_set() overwrites.
_CHARACTERS = "characters_for_pool"
# Another one: whether the server says when a statement changes the session.
_TRACKS = "tracks_for_pool"
_TRACK = "SET session_track_state_change = ON, default_week_format = @@SESSION.default_week_format"
# The server's error for a value that a variable can't have.
_WRONG_VALUE = 1231
_CONVERTING = frozenset({"literal", "escape", "escape_string", "_quote_bytes"})


class PyMySQL(Driver):
    can_end = ends_elsewhere = True
    rules = MYSQL
    learned = ("isolation_level", "mysql_server_data")
    told = (
        "cursorclass",
        "decoders",
        "encoders",
        "use_unicode",
        "sql_mode",
        "init_command",
        "_read_timeout",
        "_write_timeout",
    )
    remembers_transaction = True
    reports_session_changes = True

    def fileno(self, connection: Any) -> int | None:
        sock = connection._sock
        if sock is None:
            return None
        fd: int = sock.fileno()
        return fd if fd >= 0 else None

    def disconnect(self, connection: Any) -> None:
        self._forget_result(connection)
        if connection.open:
            connection.close()

    def drop(self, connection: Any) -> None:
        self._forget_result(connection)
        sock = connection._sock
        sockets.shut_down(self.fileno(connection))
        green.in_thread_of(getattr(sock, "hub", None), connection._force_close)

    @staticmethod
    def _forget_result(connection: Any) -> None:
        # The result's finalizer would read the rest of it, from a closed socket, in any thread.
        if connection._result is not None:
            connection._result.unbuffered_active = False

    def in_transaction(self, connection: Any) -> bool:
        # The status comes with OK packets, so with autocommit off it lags behind a SELECT.
        return bool(connection.server_status & _TRANSACTION_FLAGS != _NO_TRANSACTION)

    def is_clean(self, connection: Any) -> bool:
        # As in_transaction() and unread(), without a call.
        result = connection._result
        return (
            connection._sock is not None
            and connection.server_status & _TRANSACTION_FLAGS == _NO_TRANSACTION
            and not (result is not None and (result.unbuffered_active or result.has_next))
        )

    def unread(self, connection: Any) -> bool:
        result = connection._result
        return result is not None and bool(result.unbuffered_active or result.has_next)

    def is_executing(self, connection: Any, error: BaseException | None) -> bool:
        if isinstance(error, pymysql.MySQLError):
            # There was no answer within read_timeout: else the server is gone.
            return isinstance(error.__context__, TimeoutError)
        # A read that was cut short has closed the socket. Or a statement was sent, and no packet of an answer
        # has come, or not all.
        was_reading = error is not None and connection._sock is None
        return was_reading or connection._next_seq_id == 1 or self.unread(connection)

    def end(self, connections: list[Any], seconds: float) -> None:
        """https://dev.mysql.com/doc/refman/8.4/en/kill.html"""
        found = [getattr(connection, _AT_FIRST, None) for connection in connections]
        sessions = [at_first.session for at_first in found if at_first is not None and at_first.session]
        if sessions:
            pymysql_killer.kill(self, connections[0], sessions, seconds)
        if len(sessions) < len(connections):
            raise RuntimeError(ending.UNKNOWN)

    def server_away(self, error: BaseException) -> bool:
        # With the same number as a server that isn't there it says that a certificate is wrong.
        cause = getattr(error, "original_exception", None)
        return (
            isinstance(error, pymysql.MySQLError)
            and not isinstance(cause, ssl.SSLCertVerificationError)
            and errors.mysql_server_away(error)
        )

    def login_refused(self, error: BaseException) -> bool:
        return isinstance(error, pymysql.MySQLError) and errors.mysql_login_refused(error)

    def server_full(self, error: BaseException) -> bool:
        return isinstance(error, pymysql.MySQLError) and errors.mysql_server_full(error)

    def unfit(self, connection: Any, error: Any) -> str | None:
        return errors.mysql_unfit(error)

    def takes_writes(self, connection: Any) -> bool | None:
        at_first = getattr(connection, _AT_FIRST)
        return None if at_first is None else at_first.read_only in errors.MYSQL_OFF

    def interrupted(self, connection: Any, error: BaseException) -> bool:
        # A read that is cut short closes the socket, a write doesn't. What fails before anything
        # is sent is the conversion of parameters.
        if isinstance(error, UnicodeEncodeError):
            return False
        return any(
            code.co_filename == _CONNECTIONS and code.co_name not in _CONVERTING
            for code in passed_through(error)
        )

    def usable(self, connection: Any, ask: Callable[[], bool], seconds: float | None) -> bool:
        """Django's ping would make PyMySQL connect again by itself, to a session without settings."""
        try:
            with _answering_within(connection, seconds):
                connection.ping(reconnect=False)
        except pymysql.Error:
            return False
        return True

    def rollback(self, connection: Any, seconds: float | None) -> None:
        with _answering_within(connection, seconds):
            connection.rollback()

    def reset(self, connection: Any, seconds: float | None) -> bool:
        """The server's reset, and then what else PyMySQL's ``connect()`` sets: two round trips.

        https://dev.mysql.com/doc/refman/8.4/en/mysql-reset-connection.html. It doesn't undo a USE, leaves
        roles as they are and doesn't do again what the server's ``init_connect`` says.
        """
        at_first = getattr(connection, _AT_FIRST)
        if not connection.db or (at_first and at_first.init_connect):
            return False
        with _answering_within(connection, seconds):
            connection._execute_command(_COM_RESET_CONNECTION, b"")
            connection._read_ok_packet()
            is_as_at_first = at_first is not None and _set_up(connection, at_first)
            if not is_as_at_first:
                connection.select_db(connection.db)
                is_as_at_first = _set_up(connection, at_first)
            if is_as_at_first and connection.init_command is not None:
                with connection.cursor(pymysql.cursors.Cursor) as cursor:
                    cursor.execute(connection.init_command)
        return is_as_at_first

    def detach_cursor(self, cursor: Any) -> bool:
        # Django's own wrapper is around it. Closing would read what is left of the result.
        getattr(cursor, "cursor", cursor).connection = None
        return True

    def adapt(self, params: dict[str, Any], seconds: float | None) -> None:
        params["client_flag"] = params.get("client_flag", 0) | _CLIENT_SESSION_TRACK
        if seconds is None:
            return
        # connect_timeout ends with the TCP handshake; a server that accepts and is silent needs more.
        for name in ("connect_timeout", "read_timeout", "write_timeout"):
            params[name] = min(params.get(name) or (10 if name == "connect_timeout" else math.inf), seconds)

    def label(self, params: dict[str, Any], label: str) -> None:
        params.setdefault("program_name", label)

    def connected(self, connection: Any, params: dict[str, Any], asks: bool = True) -> None:
        setattr(connection, _TRACKS, asks and _track_session(connection))
        setattr(connection, _AT_FIRST, _read_state(connection) if asks else None)
        characters = connection.charset, connection.collation, connection.encoding
        setattr(connection, _CHARACTERS, characters)
        connection._read_timeout = params.get("read_timeout")
        connection._write_timeout = params.get("write_timeout")

    def session_changed(self, connection: Any) -> bool:
        # It comes with OK packets: where there are columns, what is seen is from the statement before.
        if not connection.server_status & _SERVER_SESSION_STATE_CHANGED:
            return False
        result = connection._result
        return result is not None and result.description is None and trackers.tell_a_change(result.message)

    def server_timeout(self, connection: Any) -> float:
        at_first = getattr(connection, _AT_FIRST)
        if at_first is not None:
            return float(at_first.wait_timeout)
        with connection.cursor(pymysql.cursors.Cursor) as cursor:
            cursor.execute("SELECT @@wait_timeout")
            return float(cursor.fetchone()[0])


class _State(NamedTuple):
    """Of a session, read in one round trip. ``role``: the active ones, and ``database``: in hexadecimal,
    which no character set changes; ``init_connect``: statements that the server executes for each new one;
    ``wait_timeout``: in seconds; ``read_only``: in its words; ``session``: where it can be told from others.
    """

    role: str | None
    database: str | None
    init_connect: str | None
    wait_timeout: int
    read_only: int | str
    session: ending.Session | None


def _read_state(connection: Any) -> _State | None:
    """None where the server is too old to have roles."""
    try:
        with connection.cursor(pymysql.cursors.Cursor) as cursor:
            cursor.execute(
                "SELECT HEX(CURRENT_ROLE()), HEX(DATABASE()), @@init_connect, @@wait_timeout, @@read_only, "
                f"{ending.SESSION}"
            )
            found = cursor.fetchone()
    except pymysql.MySQLError:
        if not connection.open:
            raise
        return None
    try:
        role, database, init_connect, wait_timeout, read_only, *words = found
    except (TypeError, ValueError):
        # A proxy may answer anything.
        return None
    session = ending.session(words, connection.thread_id())
    return _State(role, database, init_connect, wait_timeout, read_only, session)


def _track_session(connection: Any) -> bool:
    """Have the server say when a statement changes the session: in a trigger or a function, for example.

    https://dev.mysql.com/doc/refman/8.4/en/session-state-tracking.html. Whether it will: MariaDB says already
    that this is a change, MySQL of what is set after it, here to what it is. A proxy may not know it, forbid
    it, or answer and do nothing.
    """
    if not connection.server_capabilities & _CLIENT_SESSION_TRACK:
        return False
    try:
        connection.query(_TRACK)
    except pymysql.MySQLError:
        if not connection.open:
            raise
        return False
    return bool(connection.server_status & _SERVER_SESSION_STATE_CHANGED)


def _set_up(connection: Any, at_first: _State | None) -> bool:
    """What ``connect()`` sets, after a reset, in one round trip. False: role or database are others than at
    first. Then a value is wrong, so that nothing is set.
    """
    charset, collation, encoding = getattr(connection, _CHARACTERS)
    settings = [f"NAMES {charset} COLLATE {collation}" if collation else f"NAMES {charset}"]
    if connection.sql_mode is not None:
        settings.append(f"sql_mode = {connection.escape(connection.sql_mode)}")
    if getattr(connection, _TRACKS):
        settings.append("session_track_state_change = ON")
    if at_first is not None:
        role, database = (
            "NULL" if found is None else f"'{found}'" for found in (at_first.role, at_first.database)
        )
        same = f"HEX(CURRENT_ROLE()) <=> {role} AND HEX(DATABASE()) <=> {database}"
        settings.append(f"autocommit = IF({same}, 1, 2)")
    try:
        connection.query(f"SET {', '.join(settings)}")
    except pymysql.MySQLError as error:
        if at_first is None or error.args[0] != _WRONG_VALUE:
            raise
        return False
    connection.charset, connection.collation, connection.encoding = charset, collation, encoding
    return True


@contextlib.contextmanager
def _answering_within(connection: Any, seconds: float | None) -> Iterator[None]:
    timeout = connection._read_timeout
    if seconds is not None:
        connection._read_timeout = seconds
    try:
        yield
    finally:
        connection._read_timeout = timeout


with contextlib.suppress(AttributeError):
    tls.cache_contexts()

DRIVER = PyMySQL()
