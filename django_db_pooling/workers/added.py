"""The figures of a pool in all processes, added up. What a HOST_LIMIT leaves them is no sum."""

from __future__ import annotations

from dataclasses import replace

from django_db_pooling.pool.stats import PoolStats


def added(stats: list[PoolStats], times: list[float]) -> PoolStats:
    """All of them, limits too. ``times``: when each was read; what the host has open says the latest."""
    total = stats[0]
    for more in stats[1:]:
        total = total.plus(more)
    limits = [each.host_limit for each in stats if each.host_limit is not None]
    host_limit = min(limits, default=None)
    known = [
        (at, each.host_open) for at, each in zip(times, stats, strict=True) if each.host_open is not None
    ]
    return replace(
        total,
        size=sum(each.size for each in stats),
        max_outstanding=_within(host_limit or 0, stats, [each.max_outstanding for each in stats]),
        host_limit=host_limit,
        host_open=max(known)[1] if known else None,
    )


def free_of_all(stats: list[PoolStats], total: PoolStats) -> int | None:
    """How many could be checked out at this moment without waiting; None: no limit."""
    shared = [each for each in stats if each.host_limit is not None]
    taken = sum(each.in_use + each.opening + each.ending for each in shared)
    if total.host_open is not None:
        # Also by processes that don't report.
        taken = max(taken, total.host_open - sum(each.idle for each in shared))
    of_host = max(0, (total.host_limit or 0) - taken)
    return _within(of_host, stats, [each.free for each in stats])


def _within(of_host: int, stats: list[PoolStats], numbers: list[int | None]) -> int | None:
    """The sum, to which those with a HOST_LIMIT add no more than ``of_host``. None: no limit."""
    apart: list[int | None] = []
    shared: list[int | None] = []
    for each, number in zip(stats, numbers, strict=True):
        (apart if each.host_limit is None else shared).append(number)
    if None in apart:
        return None
    own = sum(filter(None, apart))
    return own + (of_host if None in shared else min(of_host, sum(filter(None, shared))))
