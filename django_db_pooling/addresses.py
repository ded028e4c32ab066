"""Servers whose names move: where HOST has come to lead elsewhere, every connection is replaced.

With ``POOL["FOLLOW_HOST"]``, seconds between two look-ups. They have a thread of their own (under gevent: a
greenlet), since a name server that is silent takes its time.
"""

from __future__ import annotations

import socket
import time
from functools import partial

from django_db_pooling.database_pool import DatabasePool
from django_db_pooling.process.tasks import Tasks
from django_db_pooling.registry import Registry


class HostWatch:
    """Looked after by ``process.upkeep``."""

    name = "the addresses of servers"

    def __init__(self, registry: Registry) -> None:
        self.tasks = Tasks()
        self._registry = registry
        # By pool and HOST: when the next look-up is due, and what the last one has found.
        self._known: dict[tuple[str, str], tuple[float, frozenset[str]]] = {}

    def every_second(self) -> bool:
        watched = [pool for pool in self._registry.pools() if pool.limits.follow_host is not None]
        for pool in watched:
            self.tasks.run(f"looking up the server of {pool.name!r}", partial(self._look_up, pool))
        return bool(watched)

    def _look_up(self, pool: DatabasePool) -> None:
        host, now = str(pool.settings_dict.get("HOST") or ""), time.monotonic()
        due, before = self._known.get((pool.name, host), (0.0, frozenset[str]()))
        if now < due or not host:
            return
        due = now + (pool.limits.follow_host or 0.0)
        # First of all: what fails is tried again in its time.
        self._known[pool.name, host] = due, before
        found = addresses(host)
        self._known[pool.name, host] = due, found
        # A name with several addresses may be answered with some of them, or in another order.
        if before and before.isdisjoint(found):
            pool.journal.note("moved", reason=", ".join(sorted(found)))
            pool.recycle()

    def forked(self) -> None:
        self._known = {}

    def end(self) -> None:
        return


def addresses(host: str) -> frozenset[str]:
    """Of a HOST, with libpq of several; a path of a UNIX socket has none. Raises OSError."""
    names = [name for name in host.split(",") if name and not name.startswith(("/", "@"))]
    return frozenset(
        str(address[0])
        for name in names
        for *_, address in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    )
