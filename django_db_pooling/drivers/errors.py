"""Errors that say something about the server or the connection, by number or by text.

``server_away``: connecting has failed in a way that may be over in a moment. ``evicts``: no later request
should get this connection.
"""

from __future__ import annotations

import re

# https://dev.mysql.com/doc/mysql-errors/8.4/en/, server and client error reference. Connecting: no socket,
# no host, gone or lost meanwhile (three), too many connections (of all, of this user by two settings),
# shutting down, killed.
_MYSQL_AWAY = frozenset({2002, 2003, 2006, 2013, 2055, 1040, 1203, 1226, 1053, 1927})
# Shutting down, a read-only transaction, a read-only server.
_MYSQL_EVICTING = frozenset({1053, 1792, 1836})
_OPTION_PREVENTS_STATEMENT = 1290

# When connecting fails, libpq gives a text and no code: the system's, the server's
# (https://www.postgresql.org/docs/current/errcodes-appendix.html: 57P03, 53300) or PgBouncer's.
_POSTGRESQL_AWAY = re.compile(
    r"refused|timeout expired|timed out|unreachable|no route|reset by peer|closed the connection unexpectedly"
    r"|no such file|could not translate host name|name resolution|failed to resolve"
    r"|starting up|shutting down|in recovery mode|not (?:yet )?accepting connections|administrator command"
    r"|too many (?:clients|connections)|connection slots"
    r"|login has been failing|cannot connect to server|no more connections allowed",
    re.IGNORECASE,
)
# A read-only transaction or server, after a failover for example; the server is shutting down.
_POSTGRESQL_EVICTING = frozenset({"25006", "57P01", "57P02", "57P03"})


def mysql_server_away(error: BaseException) -> bool:
    return _number(error) in _MYSQL_AWAY


def mysql_evicts(error: BaseException) -> bool:
    number = _number(error)
    # Of all the options that prevent statements: --read-only, --super-read-only.
    return number in _MYSQL_EVICTING or (number == _OPTION_PREVENTS_STATEMENT and "read" in str(error))


def _number(error: BaseException) -> object:
    return error.args[0] if error.args else None


def postgresql_server_away(error: BaseException) -> bool:
    return bool(_POSTGRESQL_AWAY.search(str(error)))


def postgresql_evicts(sqlstate: str | None) -> bool:
    return sqlstate in _POSTGRESQL_EVICTING
