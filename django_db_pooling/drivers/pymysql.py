"""PyMySQL: pure Python, cooperative under gevent."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import ssl
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pymysql
from pymysql.constants import SERVER_STATUS

from django_db_pooling.drivers import ending, errors, pymysql_killer, sockets, trackers
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
# Another one: its character set and collation then, which set_character_set() overwrites.
_CHARACTERS = "characters_for_pool"
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
        """The server's reset, and then what else PyMySQL's ``connect()`` sets.

        https://dev.mysql.com/doc/refman/8.4/en/mysql-reset-connection.html. It doesn't undo a USE, leaves
        roles as they are and doesn't do again what the server's ``init_connect`` says.
        """
        at_first = getattr(connection, _AT_FIRST)
        if not connection.db or (at_first and at_first.init_connect):
            return False
        with _answering_within(connection, seconds):
            connection._execute_command(_COM_RESET_CONNECTION, b"")
            connection._read_ok_packet()
            connection.select_db(connection.db)
            connection.set_character_set(*getattr(connection, _CHARACTERS))
            with connection.cursor(pymysql.cursors.Cursor) as cursor:
                if connection.sql_mode is not None:
                    cursor.execute("SET sql_mode = %s", (connection.sql_mode,))
                if connection.init_command is not None:
                    cursor.execute(connection.init_command)
            _track_session(connection)
            if at_first is None:
                return True
            found = _read_state(connection)
            return found is not None and found.role == at_first.role

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

    def connected(self, connection: Any, params: dict[str, Any]) -> None:
        _track_session(connection)
        setattr(connection, _AT_FIRST, _read_state(connection))
        setattr(connection, _CHARACTERS, (connection.charset, connection.collation))
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
    """Of a session, read in one round trip. ``role``: the active ones; ``init_connect``: statements that the
    server executes for each new connection; ``wait_timeout``: in seconds; ``read_only``: in its words;
    ``session``: where it can be told from others.
    """

    role: str | None
    init_connect: str | None
    wait_timeout: int
    read_only: int | str
    session: ending.Session | None


def _read_state(connection: Any) -> _State | None:
    """None where the server is too old to have roles."""
    try:
        with connection.cursor(pymysql.cursors.Cursor) as cursor:
            cursor.execute(
                f"SELECT CURRENT_ROLE(), @@init_connect, @@wait_timeout, @@read_only, {ending.SESSION}"
            )
            found = cursor.fetchone()
    except pymysql.MySQLError:
        if not connection.open:
            raise
        return None
    try:
        role, init_connect, wait_timeout, read_only, *words = found
    except (TypeError, ValueError):
        # A proxy may answer anything.
        return None
    session = ending.session(words, connection.thread_id())
    return _State(role, init_connect, wait_timeout, read_only, session)


def _track_session(connection: Any) -> None:
    """Have the server say when a statement changes the session: in a trigger or a function, for example.

    https://dev.mysql.com/doc/refman/8.4/en/session-state-tracking.html
    """
    if connection.server_capabilities & _CLIENT_SESSION_TRACK:
        try:
            connection.query("SET SESSION session_track_state_change = ON")
        except pymysql.MySQLError:
            # A proxy may not know it, or forbid it.
            if not connection.open:
                raise


@contextlib.contextmanager
def _answering_within(connection: Any, seconds: float | None) -> Iterator[None]:
    timeout = connection._read_timeout
    if seconds is not None:
        connection._read_timeout = seconds
    try:
        yield
    finally:
        connection._read_timeout = timeout


def _file_state(path: Any) -> tuple[object, ...]:
    """What changes when a file or a directory of certificates is replaced."""
    try:
        stat = os.stat(path)
    except (OSError, TypeError, ValueError):
        return (path,)
    return (path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


class _Context:
    """A TLS context whose sockets are closed when their handshake is interrupted.

    wrap_socket() takes the descriptor over before the handshake: the socket that PyMySQL closes has none.
    """

    __slots__ = ("_context",)

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def wrap_socket(self, sock: Any, **options: Any) -> Any:
        wrapped = self._context.wrap_socket(sock, do_handshake_on_connect=False, **options)
        try:
            wrapped.do_handshake()
        except BaseException:
            wrapped.close()
            raise
        return wrapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _cache_tls_contexts() -> None:
    """Make PyMySQL build its TLS context once for the same options and files, not in every connect.

    Building one loads the system's certificates, 20 ms of CPU. PyMySQL 1.2 does it by default,
    because it tries TLS first. A context given as ``ssl=`` would mean that TLS is required, so the
    place to cache it is where PyMySQL makes it. A context is meant to serve many connections.
    """
    build = pymysql.connections.Connection._create_ssl_ctx
    if hasattr(build, "__wrapped__"):
        return
    # Options and files -> what ssl.SSLContext was then, and the context.
    contexts: dict[Any, tuple[type[ssl.SSLContext], _Context]] = {}

    @functools.wraps(build)
    def create_ssl_ctx(self: Any, options: Any) -> _Context:
        if isinstance(options, ssl.SSLContext):
            return _Context(build(self, options))
        system = ssl.get_default_verify_paths()
        files = [options.get(name) for name in ("ca", "capath", "cert", "key")]
        files += [system.cafile, system.capath]
        try:
            key = (tuple(sorted(options.items())), tuple(_file_state(path) for path in files if path))
            cached = contexts.get(key)
        except TypeError:
            return _Context(build(self, options))
        if cached is not None and cached[0] is ssl.SSLContext:
            return cached[1]
        # A context from before gevent's patch does not work after it.
        context = _Context(build(self, options))
        if len(contexts) >= 16:
            contexts.clear()
        contexts[key] = (ssl.SSLContext, context)
        return context

    pymysql.connections.Connection._create_ssl_ctx = create_ssl_ctx


with contextlib.suppress(AttributeError):
    _cache_tls_contexts()

DRIVER = PyMySQL()
