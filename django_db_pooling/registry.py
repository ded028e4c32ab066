"""The pools of this process, one for each of Django's aliases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections

from django_db_pooling import conf, host_limit
from django_db_pooling.database_pool import DatabasePool, Identity
from django_db_pooling.drivers.base import Driver
from django_db_pooling.log import redact
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.stats import PoolStats
from django_db_pooling.process import fork, upkeep
from django_db_pooling.process.tasks import Tasks

# For opening those of MIN_SIZE, in each round of the housekeeping (seconds).
FILL_TIME = 1.0
# Seconds after which one who has asked whether the server is back isn't counted on to ask again.
ASKED = 60.0


class Registry:
    """Finds and makes pools, and looks after them."""

    name = "the pools"

    def __init__(self) -> None:
        self.tasks = Tasks()
        # Called when a pool was made, in the thread that needed it.
        self.on_new_pool: list[tuple[str, Callable[[], None]]] = []
        self._begin()

    def _begin(self) -> None:
        # The pools. Replaced, never changed, so that readers need no lock.
        self.by_alias: dict[str, DatabasePool] = {}
        # Those that another one has replaced, until their connections have come back.
        self._replaced: tuple[DatabasePool, ...] = ()
        self._lock = threading.Lock()
        # By alias, of time.monotonic(): until when it is paused, also where it has no pool yet. A forked
        # child joins a pause of the host's when it makes its own pool: it may not have heard of the end.
        self._paused_until: dict[str, float] = {}
        # Until when somebody waits to be told that the server is back, of time.monotonic().
        self._asked_until = 0.0

    # -- finding and making -------------------------------------------------------------------

    def pools(self, alias: str | None = None) -> list[DatabasePool]:
        if not fork.noticed[0]:
            fork.notice()
        pools = [*self.by_alias.values(), *self._replaced]
        return [pool for pool in pools if alias in (None, pool.name)]

    def identity_of(self, wrapper: Any, driver: Driver) -> Identity:
        """That of the wrapper's settings at this moment, in the pool of its alias."""
        if not fork.noticed[0]:
            fork.notice()
        while True:
            pool = self.by_alias.get(wrapper.alias)
            if pool is None or pool.driver is not driver:
                pool = self._make(wrapper, driver)
            pool.closing = False
            identity = pool.identity_of(wrapper)
            # Else it was forgotten this instant: then nobody looks after it any more.
            if self.by_alias.get(wrapper.alias) is pool:
                return identity

    def _make(self, wrapper: Any, driver: Driver) -> DatabasePool:
        with self._lock:
            before = self.by_alias.get(wrapper.alias)
            if before is not None and before.driver is driver:
                return before
            made = DatabasePool(wrapper, driver)
            left = self.pause_left(made.name)
            if left is not None:
                made.pause.begin(left)
            if before is not None:
                before.closing = True
                self._replaced = (*self._replaced, before)
            self.by_alias = {**self.by_alias, wrapper.alias: made}
        limits = made.limits
        made.journal.note("created", size=limits.size, max_outstanding=limits.max_outstanding)
        upkeep.ensure_running()
        for name, function in self.on_new_pool:
            self.tasks.run(name, function)
        return made

    # -- upkeep -----------------------------------------------------------------------------

    def every_second(self) -> bool:
        for pool in self.pools():
            pool.tasks.run(f"looking after the pool {pool.name!r}", pool.maintain)
            pool.tasks.run(f"other settings of the pool {pool.name!r}", partial(self._follow_settings, pool))
            pool.tasks.run(f"MIN_SIZE of the pool {pool.name!r}", partial(self._fill, pool))
        self.tasks.run("forgetting pools that have ended", self._forget_ended)
        return any(_is_needed(pool) or self._has_to_try(pool) for pool in self.pools())

    def _follow_settings(self, pool: DatabasePool) -> None:
        if pool.name not in connections.settings and (pool.was_configured or not len(pool)):
            pool.closing = True
        pool.retire_outdated()
        pool.retire_unused()

    def setting_changed(self, setting: str, **kwargs: Any) -> None:
        """Django's signal of tests, which change settings in the middle."""
        if setting in ("USE_TZ", "TIME_ZONE"):
            for pool in self.pools():
                pool.retire_outdated()

    def _fill(self, pool: DatabasePool) -> None:
        until, tries = time.monotonic() + FILL_TIME, self._has_to_try(pool)
        # Others may be there, and of no use.
        at_least = len(pool) + 1 if tries else 0
        # Not for as long as some are missing: each may be closed as soon as it is open.
        for _ in range(max(pool.limits.min_size, int(tries))):
            if not self._fill_one(pool, at_least) or time.monotonic() >= until:
                return

    def _fill_one(self, pool: DatabasePool, at_least: int) -> bool:
        """Whether one was missing, and was opened."""
        identity = pool.current
        slot = None if identity is None else pool.reserve_minimum(identity.affinity(), at_least)
        if identity is None or slot is None:
            return False
        try:
            identity.new_wrapper().fill(identity, slot)
        except SynchronousOnlyOperation:
            # Under gevent, while another greenlet runs an event loop in this thread.
            return False
        except Exception as error:
            pool.journal.note("min_size", error=redact(error))
            return False
        return True

    def _has_to_try(self, pool: DatabasePool) -> bool:
        """Whether connecting fails, and requests come again only when it is known that it works."""
        return time.monotonic() < self._asked_until and _has_none(pool)

    def _forget_ended(self) -> None:
        """Pools without connections whose alias is gone, or that another one has replaced."""
        with self._lock:
            ended = self._take_out_ended()
        for pool in ended:
            pool.retire_all()
            pool.journal.write(is_last=True)

    def _take_out_ended(self) -> list[DatabasePool]:
        ended = [pool for pool in self.pools() if pool.closing and not len(pool)]
        for pool in ended:
            # Before there can be another one, which locks the same file.
            host_limit.leave(pool.slots)
        if ended:
            self._replaced = tuple(pool for pool in self._replaced if pool not in ended)
            self.by_alias = {alias: pool for alias, pool in self.by_alias.items() if pool not in ended}
        return ended

    def forked(self) -> None:
        """In a forked child: begin anew, and let the parent's connections be."""
        fork.never_free((self.by_alias, self._replaced))
        self._begin()

    def cut_off(self) -> None:
        """In a forked child: nothing that is written to the parent's connections reaches its servers."""
        for pool in self.pools():
            # For wrappers that refer to it.
            pool.closing = True
            for identity in pool.identities:
                identity.retired = True
            fork.cut_off(pool.driver.fileno(connection) for connection in pool.connections())

    def end(self) -> None:
        """Close what is idle properly: else servers log aborted connections."""
        for pool in self.pools():
            self.tasks.run(f"closing the pool {pool.name!r}", pool.drain_here)
            self.tasks.run(f"the log of the pool {pool.name!r}", partial(pool.journal.write, is_last=True))

    # -- all of them ----------------------------------------------------------------------------

    def apply_limits(self) -> None:
        """The limits have changed."""
        for pool in self.pools():
            pool.resize(conf.limits_for(pool.name, pool.settings_dict))

    def stats(self, alias: str, settings_dict: conf.Settings) -> PoolStats:
        if not fork.noticed[0]:
            fork.notice()
        pool = self.by_alias.get(alias)
        if pool is not None:
            return pool.snapshot()
        limits = conf.limits_for(alias, settings_dict)
        return PoolStats(
            alias,
            limits.size,
            limits.max_outstanding,
            host_limit=limits.host_limit,
            paused=self.pause_left(alias),
        )

    def all_stats(self) -> dict[str, PoolStats]:
        """By alias, of all but those with ``POOL = False``; none where there are no settings yet."""
        return {alias: self.stats(alias, settings_dict) for alias, settings_dict in _pooled().items()}

    def pause(self, alias: str, seconds: float) -> None:
        """Nobody is handed a connection for so long; what is idle is closed (I/O)."""
        until = max(self._paused_until.get(alias, 0.0), time.monotonic() + seconds)
        # First of all, for a pool that is made this instant.
        self._paused_until[alias] = until
        for pool in self.pools(alias):
            pool.pause.begin(until - time.monotonic())
        upkeep.ensure_running()

    def resume(self, alias: str) -> None:
        self._paused_until.pop(alias, None)
        for pool in self.pools(alias):
            pool.pause.end()

    def pause_left(self, alias: str) -> float | None:
        """Seconds; None: it isn't paused."""
        left = self._paused_until.get(alias, 0.0) - time.monotonic()
        return left if left > 0 else None

    def reasons_to_go_elsewhere(self, only: Collection[str] = ()) -> list[str]:
        """Why requests had better go to another process. No I/O. ``only``: those that need these aliases.

        While somebody asks, the housekeeper looks whether connecting works again.
        """
        aliases = [alias for alias in _pooled() if not only or alias in only]
        pools, reasons = [pool for pool in self.pools() if pool.name in aliases], []
        if any(_has_none(pool) for pool in pools):
            reasons.append("no connection")
            self._asked_until = time.monotonic() + ASKED
            upkeep.ensure_running()
        if any(self.pause_left(alias) is not None for alias in aliases):
            reasons.append("paused")
        if any(pool.queue.shedding is not None and pool.queue.shedding.is_overloaded for pool in pools):
            reasons.append("overloaded")
        return reasons

    def close_all(self, alias: str | None, timeout: float, own: list[Slot]) -> bool:
        """Close what is idle; wait for what others hold. True when none of it is left."""
        pools = self.pools(alias)
        for pool in pools:
            pool.recycle()
        deadline = time.monotonic() + timeout
        while any(pool.holds_recycled(own) for pool in pools):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return True

    def holders(self) -> list[object]:
        """Of all connections that are checked out."""
        return [holder for pool in self.pools() for holder in pool.holders()]


def _pooled() -> dict[str, conf.Settings]:
    """By alias; none where there are no settings yet."""
    return conf.pooled(connections.settings) if conf.there_are_settings() else {}


def _has_none(pool: DatabasePool) -> bool:
    """Whether there is no good connection with the alias's own settings, nor can one be opened."""
    identity = pool.current
    if identity is None:
        return False
    affinity = identity.affinity()
    return pool.growth.of(affinity).fails and not pool.queue.others_may_come_back(affinity)


def _is_needed(pool: DatabasePool) -> bool:
    """Whether it has to be looked after."""
    host = pool.slots.host
    is_waiting = host is not None and host.is_present
    is_kept = is_waiting or pool.limits.min_size or pool.pause.until
    return bool(len(pool) or is_kept or pool.journal.is_pending)


registry = Registry()
