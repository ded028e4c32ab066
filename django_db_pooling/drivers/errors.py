"""Errors that say something about the server or the connection, by number or by text.

``server_away``: connecting has failed in a way that may be over in a moment. ``server_full``: since there are
too many connections, of all or of this user. ``unfit``: what can't be used
any more after an error of a statement's, by the names below.
"""

from __future__ import annotations

import re
from typing import Any

# This connection: it has lost a statement that was prepared, for example.
CONNECTION = "connection"
# This server: it shuts down, or is a cluster's node that isn't ready.
SERVER = "server"
# This server, for writing.
READ_ONLY_SERVER = "read-only server"
# This transaction, for writing. The server may be set to that, or the session, or the transaction alone.
READ_ONLY_TRANSACTION = "read-only transaction"

# https://dev.mysql.com/doc/mysql-errors/8.4/en/, server and client error reference. Connecting: no socket,
# no host, gone or lost meanwhile (three), too many connections (of all, of this user by two settings),
# shutting down, killed, in offline mode.
_MYSQL_AWAY = frozenset({2002, 2003, 2006, 2013, 2055, 1040, 1203, 1226, 1053, 1927, 3032})
# Access denied; without a password, too.
_MYSQL_LOGIN_REFUSED = frozenset({1045, 1698})
_MYSQL_FULL = frozenset({1040, 1203, 1226})
_MYSQL_UNFIT = {
    1053: SERVER,
    # Galera: the node isn't ready for applications.
    1047: SERVER,
    # ProxySQL: no server for this hostgroup.
    9001: SERVER,
    1836: READ_ONLY_SERVER,
    1792: READ_ONLY_TRANSACTION,
}
_OPTION_PREVENTS_STATEMENT = 1290
_USER_LIMIT = 1226
# Values of @@read_only.
MYSQL_OFF = (0, "0", "OFF")

# When connecting fails, libpq gives a text and no code: the system's, the server's
# (https://www.postgresql.org/docs/current/errcodes-appendix.html: 57P03, 53300), PgBouncer's or Odyssey's; or
# its own, where no host has the wanted ``target_session_attrs``.
_POSTGRESQL_AWAY = re.compile(
    r"refused|timeout expired|timed out|unreachable|no route|reset by peer|closed the connection unexpectedly"
    r"|no such file|could not translate host name|name resolution|failed to resolve"
    r"|starting up|shutting down|in recovery mode|not (?:yet )?accepting connections|administrator command"
    r"|too many (?:active )?clients|too many connections|connection slots"
    r"|login has been failing|cannot connect to server|no more connections allowed"
    r"|query_wait_timeout|client_login_timeout|server conn crashed"
    r"|EOF detected|unexpected eof"
    r"|session is (?:not )?read-only|server is (?:not )?in hot standby mode",
    re.IGNORECASE,
)
# 28P01 and 28000: the server's words, whose language is the server's choice; and PgBouncer's.
_POSTGRESQL_LOGIN_REFUSED = re.compile(
    r"authentication failed|no pg_hba.conf entry|role .* does not exist|no such user", re.IGNORECASE
)
_POSTGRESQL_FULL = re.compile(
    r"too many (?:active )?clients|too many connections|connection slots|no more connections allowed",
    re.IGNORECASE,
)
# By SQLSTATE, which errors of statements have: those that initialise a session, for example. The class of
# connections is away, but for the protocol's errors, which are PgBouncer's for everything.
_POSTGRESQL_AWAY_STATES = frozenset({"53300", "57P01", "57P02", "57P03", "57P05"})
_CONNECTION_EXCEPTION, _PROTOCOL_VIOLATION = "08", "08P01"
_POSTGRESQL_UNFIT = {
    # The statement that was prepared is gone, or there is another one of its name.
    "26000": CONNECTION,
    "42P05": CONNECTION,
    "57P01": SERVER,
    "57P02": SERVER,
    "57P03": SERVER,
    "25006": READ_ONLY_TRANSACTION,
}
_FEATURE_NOT_SUPPORTED = "0A000"
# Of the server's source: "cached plan must not change result type", in whatever language.
_OF_CACHED_PLANS = "RevalidateCachedQuery"


def mysql_server_away(error: BaseException) -> bool:
    return _number(error) in _MYSQL_AWAY


def mysql_login_refused(error: BaseException) -> bool:
    return _number(error) in _MYSQL_LOGIN_REFUSED


def mysql_server_full(error: BaseException) -> bool:
    number = _number(error)
    # Of all the resources that a user may use up: connections.
    return number in _MYSQL_FULL and (number != _USER_LIMIT or "connections'" in str(error))


def mysql_unfit(error: BaseException) -> str | None:
    number = _number(error)
    # Of all the options that prevent statements: --read-only, --super-read-only.
    if number == _OPTION_PREVENTS_STATEMENT and "read" in str(error):
        return READ_ONLY_SERVER
    return None if number is None else _MYSQL_UNFIT.get(number)


def _number(error: BaseException) -> int | None:
    number = error.args[0] if error.args else None
    return number if isinstance(number, int) else None


def postgresql_server_away(error: BaseException, sqlstate: str | None = None) -> bool:
    if sqlstate is None or sqlstate == _PROTOCOL_VIOLATION:
        return bool(_POSTGRESQL_AWAY.search(str(error)))
    return sqlstate in _POSTGRESQL_AWAY_STATES or sqlstate.startswith(_CONNECTION_EXCEPTION)


def postgresql_login_refused(error: BaseException) -> bool:
    return bool(_POSTGRESQL_LOGIN_REFUSED.search(str(error)))


def postgresql_server_full(error: BaseException) -> bool:
    return bool(_POSTGRESQL_FULL.search(str(error)))


def postgresql_unfit(error: Any, sqlstate: str | None, status: Any) -> str | None:
    """``status``: gives the server's word on a parameter of the session, without I/O."""
    if sqlstate == _FEATURE_NOT_SUPPORTED:
        return CONNECTION if error.diag.source_function == _OF_CACHED_PLANS else None
    found = None if sqlstate is None else _POSTGRESQL_UNFIT.get(sqlstate)
    if found is READ_ONLY_TRANSACTION and postgresql_takes_writes(status):
        # The transaction has chosen it.
        return None
    return found


def postgresql_takes_writes(status: Any) -> bool | None:
    """None: it is older than version 14, or behind a proxy."""
    words = [status(name) for name in ("in_hot_standby", "default_transaction_read_only")]
    return None if None in words else words == ["off", "off"]
