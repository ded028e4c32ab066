"""All pools of Django's aliases in this process: by alias, and for each alias by identity."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections

from django_db_pooling import conf
from django_db_pooling.database_pool import DatabasePool
from django_db_pooling.drivers.base import Driver
from django_db_pooling.log import redact
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.stats import PoolStats
from django_db_pooling.process import fork, upkeep
from django_db_pooling.process.tasks import Tasks


class Registry:
    """Finds and makes pools, looks after them, adds up what they count."""

    name = "the pools"

    def __init__(self) -> None:
        self.tasks = Tasks()
        # Called when a pool was made, in the thread that needed it.
        self.on_new_pool: list[tuple[str, Callable[[], None]]] = []
        self._begin()

    def _begin(self) -> None:
        # Replaced, never changed, so that readers need no lock.
        self._pools: dict[str, tuple[DatabasePool, ...]] = {}
        # Totals of pools that are no more.
        self._past: dict[str, PoolStats] = {}
        self._lock = threading.Lock()

    # -- finding and making -------------------------------------------------------------------

    def pools(self, alias: str | None = None) -> list[DatabasePool]:
        if not fork.noticed[0]:
            fork.notice()
        if alias is not None:
            return list(self._pools.get(alias, ()))
        return [pool for pools in list(self._pools.values()) for pool in pools]

    def pool_for(self, wrapper: Any, driver: Driver) -> DatabasePool:
        """The pool for the wrapper's settings as they are at this moment."""
        if not fork.noticed[0]:
            fork.notice()
        pool = self._serving(wrapper)
        if pool is not None:
            pool.closing = False
            if len(self._pools.get(wrapper.alias, ())) > 1:
                self._retire(wrapper.alias)
            return pool
        with self._lock:
            pool = self._serving(wrapper)
            if pool is not None:
                return pool
            made = DatabasePool(wrapper, driver)
            self._pools = {**self._pools, wrapper.alias: (made, *self._pools.get(wrapper.alias, ()))}
        limits = made.limits
        made.journal.note("created", size=limits.size, max_outstanding=limits.max_outstanding)
        upkeep.ensure_running()
        self._retire(wrapper.alias)
        for name, function in self.on_new_pool:
            self.tasks.run(name, function)
        return made

    def _serving(self, wrapper: Any) -> DatabasePool | None:
        """The pool that there is for the wrapper's settings as they are at this moment."""
        for pool in self._pools.get(wrapper.alias, ()):
            if pool.serves(wrapper):
                return pool
        return None

    def share_learned(self, wrapper: Any) -> None:
        """Give a wrapper that hasn't connected yet its pool, and what that has learned of the server."""
        for pool in self._pools.get(wrapper.alias, ()):
            if pool.serves(wrapper):
                wrapper.__dict__.update(pool.learned, _pool=pool)

    # -- upkeep -----------------------------------------------------------------------------

    def every_second(self) -> bool:
        self._retire()
        for pool in self.pools():
            pool.tasks.run(f"looking after the pool {pool.name!r}", pool.maintain)
            pool.tasks.run(f"MIN_SIZE of the pool {pool.name!r}", partial(self._fill, pool))
        self.tasks.run("forgetting pools that have ended", self._forget_ended)
        return any(len(pool) or pool.limits.min_size or pool.journal.is_pending for pool in self.pools())

    def retire_outdated(self, alias: str | None = None) -> None:
        """End the pools whose settings have changed."""
        for pool in self.pools(alias):
            if pool.is_outdated():
                if not pool.closing:
                    pool.journal.note("retired")
                pool.closing = True
                pool.drain()

    def _retire(self, alias: str | None = None) -> None:
        self.tasks.run("ending pools of other settings", partial(self.retire_outdated, alias))

    def _fill(self, pool: DatabasePool) -> None:
        slot = pool.reserve_minimum()
        if slot is not None:
            try:
                pool.new_wrapper().fill(pool, slot)
            except SynchronousOnlyOperation:
                # Under gevent, while another greenlet runs an event loop in this thread.
                return
            except Exception as error:
                pool.journal.note("min_size", error=redact(error))

    def _forget_ended(self) -> None:
        with self._lock:
            forgotten = self._take_out_ended()
        for pool in forgotten:
            pool.journal.write(is_last=True)

    def _take_out_ended(self) -> list[DatabasePool]:
        taken_out: list[DatabasePool] = []
        for alias, pools in self._pools.items():
            ended = [pool for pool in pools if pool.closing and not len(pool)]
            for pool in ended:
                past = self._past.get(alias)
                stats = pool.snapshot()
                self._past[alias] = stats if past is None else stats.plus(past)
            if ended:
                kept = tuple(pool for pool in pools if pool not in ended)
                self._pools = {**self._pools, alias: kept}
                taken_out += ended
        return taken_out

    def forked(self) -> None:
        """In a forked child: begin anew, and let the parent's connections be."""
        fork.never_free(self._pools)
        self._begin()

    def cut_off(self) -> None:
        """In a forked child: nothing that is written to the parent's connections reaches its servers."""
        for pool in self.pools():
            # For wrappers that refer to it.
            pool.closing = True
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
        limits = conf.limits_for(alias, settings_dict)
        total = PoolStats(alias, limits.size, limits.max_outstanding)
        for pool in self.pools(alias):
            total = total.plus(pool.snapshot())
        past = self._past.get(alias)
        return total if past is None else total.plus(replace(past, in_use=0, idle=0, opening=0, waiting=0))

    def all_stats(self) -> dict[str, PoolStats]:
        """By alias, of all but those with ``POOL = False``."""
        return {
            alias: self.stats(alias, settings_dict)
            for alias, settings_dict in connections.settings.items()
            if not conf.is_off(settings_dict)
        }

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


registry = Registry()
