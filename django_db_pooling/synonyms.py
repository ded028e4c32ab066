"""What other pools call our keys: a newcomer's settings have them, and no spelling is near."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Nearer than this the spelling has to be. Another key at random is worse than none.
CUTOFF = 0.7

# Without underscores, since some write camelCase.
_SYNONYMS = {
    # psycopg_pool, Django's own pool with it
    "MAXSIZE": "MAX_OUTSTANDING",
    "MAXLIFETIME": "MAX_AGE",
    "MAXIDLE": "IDLE_TIMEOUT",
    "RECONNECTTIMEOUT": "CONNECT_RETRY",
    "CHECK": "PING",
    # SQLAlchemy, django-db-connection-pool with it
    "POOLSIZE": "SIZE",
    "MAXOVERFLOW": "MAX_OUTSTANDING",
    "RECYCLE": "MAX_AGE",
    "POOLRECYCLE": "MAX_AGE",
    "PREPING": "PING",
    "POOLPREPING": "PING",
    "POOLTIMEOUT": "TIMEOUT",
    "RESETONRETURN": "RESET",
    # django-db-geventpool
    "MAXCONNS": "MAX_OUTSTANDING",
    "REUSECONNS": "SIZE",
    # HikariCP
    "MAXIMUMPOOLSIZE": "MAX_OUTSTANDING",
    "MINIMUMIDLE": "MIN_SIZE",
    "CONNECTIONTIMEOUT": "TIMEOUT",
    "KEEPALIVETIME": "PING",
    "LEAKDETECTIONTHRESHOLD": "LEAK_THRESHOLD",
    # PgBouncer
    "POOLMODE": "SCOPE",
    "SERVERLIFETIME": "MAX_AGE",
    "SERVERIDLETIMEOUT": "IDLE_TIMEOUT",
    "QUERYWAITTIMEOUT": "TIMEOUT",
    # others, and Django's keys of an alias
    "MAXCONNECTIONS": "MAX_OUTSTANDING",
    "MAXPOOLSIZE": "MAX_OUTSTANDING",
    "MINCONNS": "MIN_SIZE",
    "CONNMAXAGE": "MAX_AGE",
    "HEALTHCHECK": "PING",
    "HEALTHCHECKS": "PING",
    "CONNHEALTHCHECKS": "PING",
}
_REMARKS = {"MAXOVERFLOW": "SIZE and MAX_OVERFLOW together"}


def hint(name: object, keys: Iterable[str]) -> str:
    """For a key that isn't one of ours; "" where nothing is near."""
    written = str(name).upper()
    plain = written.replace("_", "").replace("-", "")
    same = _SYNONYMS.get(plain)
    if same is not None:
        remark = f" ({_REMARKS[plain]})" if plain in _REMARKS else ""
        return f"Here that is {same!r}{remark}."
    near = difflib.get_close_matches(written, keys, n=1, cutoff=CUTOFF)
    return f"Did you mean {near[0]!r}?" if near else ""
