"""What servers accept from all clients together. The page asks now and then, while nobody waits."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable

from django.db import Error, connections

from django_db_pooling import capacity, owner, pooling
from django_db_pooling.workers.overview import PoolPicture

# Seconds between two questions.
REFRESH = 300.0

# By alias, when it was asked for and what was said.
_known: dict[str, tuple[float, str]] = {}


def of(pools: Iterable[PoolPicture]) -> dict[str, str]:
    """By alias, as far as it is known (I/O)."""
    for pool in pools:
        if _may_ask(pool):
            _ask(pool.alias)
    return {alias: limit for alias, (_, limit) in _known.items() if limit}


def _may_ask(pool: PoolPicture) -> bool:
    """With an idle connection of this process only: none is opened, and nobody is kept from one."""
    asked_at, _ = _known.get(pool.alias, (-math.inf, ""))
    if time.monotonic() - asked_at < REFRESH or pool.total.waiting or pool.alias not in connections.settings:
        return False
    return capacity.server_of(pool.alias) is not None and pooling.stats(pool.alias).idle > 0


def _ask(alias: str) -> None:
    # Who comes meanwhile doesn't ask.
    _known[alias] = time.monotonic(), _known.get(alias, (0.0, ""))[1]
    with contextlib.suppress(Error), owner.max_wait(0.0):
        _known[alias] = time.monotonic(), str(capacity.ask(alias))
