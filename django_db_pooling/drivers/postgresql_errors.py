"""Errors of PostgreSQL that say something about the server or the connection."""

from __future__ import annotations

import re

# When connecting fails libpq gives words only: those of the system, of the server
# (https://www.postgresql.org/docs/current/errcodes-appendix.html: 57P03, 53300) and of PgBouncer.
_AWAY = re.compile(
    r"refused|timeout expired|timed out|unreachable|no route|reset by peer|closed the connection unexpectedly"
    r"|no such file|could not translate host name|name resolution|failed to resolve"
    r"|starting up|shutting down|in recovery mode|not (?:yet )?accepting connections|administrator command"
    r"|too many (?:clients|connections)|connection slots"
    r"|login has been failing|cannot connect to server|no more connections allowed",
    re.IGNORECASE,
)
# A transaction or a server that may only be read, after a failover for example; the server ends.
_EVICTING = frozenset({"25006", "57P01", "57P02", "57P03"})


def server_away(error: BaseException) -> bool:
    return bool(_AWAY.search(str(error)))


def evicts(sqlstate: str | None) -> bool:
    return sqlstate in _EVICTING
