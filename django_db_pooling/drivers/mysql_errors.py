"""Error numbers of MySQL and MariaDB that say something about the server or the connection.

https://dev.mysql.com/doc/mysql-errors/8.4/en/, server and client error reference.
"""

from __future__ import annotations

# Connecting: no socket, no host, gone or lost meanwhile (three), too many connections (of all, of this user
# by two settings), shutting down, killed.
_AWAY = frozenset({2002, 2003, 2006, 2013, 2055, 1040, 1203, 1226, 1053, 1927})
# Shutting down, a transaction that may only read, a server that may only be read.
_EVICTING = frozenset({1053, 1792, 1836})
_OPTION_PREVENTS_STATEMENT = 1290


def server_away(error: BaseException) -> bool:
    return _code(error) in _AWAY


def evicts(error: BaseException) -> bool:
    code = _code(error)
    # Of all the options that prevent statements: --read-only, --super-read-only.
    return code in _EVICTING or (code == _OPTION_PREVENTS_STATEMENT and "read" in str(error))


def _code(error: BaseException) -> object:
    return error.args[0] if error.args else None
