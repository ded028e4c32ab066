"""How a pool is, in words, and what to do: what somebody on call wants to read first."""

from __future__ import annotations

from typing import NamedTuple

from django_db_pooling.workers.overview import Overview, PoolPicture

# A connect error is the reason for as long (seconds).
RECENT = 30.0
# Connections that spend less of their time in statements are held for something else.
WELL_USED = 0.5
NOBODY_WAITS = "No callers are waiting."


class Verdict(NamedTuple):
    """``remedy``: what to do. ``is_now``: callers wait at this moment."""

    text: str
    remedy: str
    is_now: bool

    def __str__(self) -> str:
        return f"{self.text} {self.remedy}"


def verdict(pool: PoolPicture) -> Verdict | None:
    """None: all is well."""
    waiting = pool.total.waiting
    if not waiting and not pool.timeouts:
        return None
    reason, remedy = _reason(pool)
    parts = []
    if waiting:
        parts.append(f"{_callers(waiting)} wait{'s' if waiting == 1 else ''} for a connection: {reason}")
    if pool.timeouts:
        parts.append(f"{_callers(pool.timeouts)} got no connection in the last 5 minutes")
    return Verdict(f"{'; '.join(parts)}.", remedy, bool(waiting))


def verdicts(overview: Overview) -> list[tuple[str, Verdict]]:
    """With its alias, of each pool that isn't well."""
    return [(pool.alias, found) for pool in overview.pools if (found := verdict(pool)) is not None]


def _callers(number: int) -> str:
    return f"{number:,} caller{'' if number == 1 else 's'}"


def _reason(pool: PoolPicture) -> tuple[str, str]:
    """Why somebody waits, as far as it is known, and the remedy."""
    total = pool.total
    if pool.pause is not None:
        return "the pool is paused", "Resume it, or wait for the end of the pause."
    if any(member.stats.open_when_refused is not None for member in pool.members):
        return (
            "the server takes no more connections",
            "Raise its limit or lower MAX_OUTSTANDING: manage.py db_pools --plan tells what fits.",
        )
    if any(trouble.kind == "connect" and trouble.ago < RECENT for trouble in pool.troubles):
        return "connecting fails", "See the problems below."
    if total.host_limit is not None and total.host_open is not None and total.host_open >= total.host_limit:
        return "this host has as many open as HOST_LIMIT allows", _of_holders(pool, "HOST_LIMIT")
    where = ""
    full = sum(1 for member in pool.members if member.stats.waiting)
    if 0 < full < len(pool.members):
        where = f" in {full} of {len(pool.members)} processes"
    return f"all are in use{where}", _of_holders(pool, "MAX_OUTSTANDING")


def _of_holders(pool: PoolPicture, limit: str) -> str:
    """What to do with those who hold connections."""
    total = pool.total
    share = total.busy_seconds / total.held_seconds if total.held_seconds else None
    if share is None:
        return f"See who holds them longest; or raise {limit}."
    said = f"Connections in use spend {100 * min(1.0, share):.0f} % of their time in statements"
    if share >= WELL_USED:
        return f"{said}: look for slow ones, or raise {limit} if the server has room."
    if pool.scopes == ["transaction"]:
        return f"{said}: don't wait for other services inside of atomic()."
    return (
        f"{said}: call pooling.release() before views wait for other services, or set SCOPE to 'transaction'."
    )
