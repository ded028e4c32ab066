"""All pools of this process: by alias, and for each alias by identity."""

from __future__ import annotations

import math
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from django.conf import settings
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections

from django_db_pooling import checks, conf
from django_db_pooling.backends import kept_in_settings, remembers
from django_db_pooling.drivers.base import Driver
from django_db_pooling.log import redact
from django_db_pooling.metrics import exporters
from django_db_pooling.pool.pool import Pool
from django_db_pooling.pool.slots import Slot
from django_db_pooling.pool.stats import PoolStats
from django_db_pooling.process import fork, green
from django_db_pooling.process.housekeeper import Housekeeper
from django_db_pooling.process.tasks import Tasks, tasks
from django_db_pooling.workers import reports
from django_db_pooling.workers.commands import Action, Listener
from django_db_pooling.workers.reports import Publisher, Report


class Identity(tuple[Any, ...]):
    """All that decides what a connection is for; contains the password and never prints it."""

    __slots__ = ()

    def __repr__(self) -> str:
        # Either may be a URL.
        name, host = (redact(repr(self[-1].get(key))) for key in ("NAME", "HOST"))
        return f"<Identity of {name} at {host}>"


def time_zones() -> Any:
    """What connections get from settings other than DATABASES; a string where time zones are not used."""
    return settings.USE_TZ or settings.TIME_ZONE


def _copied(value: Any) -> Any:
    """Containers copied, so that later changes don't reach the copy; values are left as they are."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(_copied(item) for item in value) if type(value) in (list, tuple, set) else value
    return value


class DatabasePool(Pool):
    """A pool, for connections of one identity, opened with Django's wrapper of that alias."""

    def __init__(self, wrapper: Any, driver: Driver) -> None:
        super().__init__(wrapper.alias, conf.limits_for(wrapper.alias, wrapper.settings_dict), driver)
        self.dialect = driver
        # Its own: an alias may have several pools, of which one fails.
        self.tasks = Tasks()
        self.wrapper_class = type(wrapper)
        self._passing = kept_in_settings(self.wrapper_class)
        self.backend_remembers = remembers(self.wrapper_class)
        self.identity = Identity(
            (self.wrapper_class, time_zones(), _copied(self._lasting(wrapper.settings_dict)))
        )
        # Django changes the alias's own dict in place for a test database. That of a copy() is
        # another one.
        settings_dict: Any = connections.settings.get(wrapper.alias)
        is_shared = settings_dict == wrapper.settings_dict
        self.settings_dict: dict[str, Any] = settings_dict if is_shared else wrapper.settings_dict
        self.scope = conf.scope(wrapper.settings_dict, driver.scope)
        self.reset_mode = conf.reset_mode(wrapper.settings_dict)
        # What Django found out about the server, by attribute of its wrapper.
        self.learned: dict[str, Any] = {}

    def serves(self, wrapper: Any) -> bool:
        """Whether its connections are what the wrapper's settings say this instant."""
        # Asked at each checkout, so without a call where it can be.
        settings_dict = self._lasting(wrapper.settings_dict) if self._passing else wrapper.settings_dict
        cls, zones, lasting = self.identity
        return bool(
            wrapper.__class__ is cls
            and zones == (settings.USE_TZ or settings.TIME_ZONE)
            and lasting == settings_dict
        )

    def is_outdated(self) -> bool:
        """Whether the settings that it was made for are different ones by now."""
        return self.identity != (self.wrapper_class, time_zones(), self._lasting(self.settings_dict))

    def _lasting(self, settings_dict: dict[str, Any]) -> dict[str, Any]:
        """What of the settings decides which connection fits."""
        if not self._passing:
            return settings_dict
        return {key: value for key, value in settings_dict.items() if key not in self._passing}

    def new_wrapper(self) -> Any:
        """A wrapper for the settings of this pool, in nobody's hands."""
        return self.wrapper_class(self.settings_dict, self.name)

    def learn(self, wrapper: Any) -> None:
        """Called with a wrapper that has just opened a connection."""
        known = wrapper.__dict__
        self.learned = {name: known[name] for name in self.dialect.learned if name in known}
        if self.server_timeout == math.inf:
            seconds = self.dialect.server_timeout(wrapper.connection)
            # Some time before the server does: it may be just about to when somebody takes one.
            self.server_timeout = max(seconds - 2, seconds / 2)

    def recycle(self) -> None:
        self.learned = {}
        super().recycle()


class Registry:
    """Finds and makes pools, looks after them, adds up what they tell."""

    def __init__(self) -> None:
        # Replaced, never changed, so that readers need no lock.
        self._pools: dict[str, tuple[DatabasePool, ...]] = {}
        # Totals of pools that are no more.
        self._past: dict[str, PoolStats] = {}
        self._lock = threading.Lock()
        self._housekeeper = Housekeeper(self._look_after)
        self._publisher = Publisher()
        self._listener = Listener()

    def pools(self, alias: str | None = None) -> list[DatabasePool]:
        if not fork.noticed[0]:
            fork.notice()
        if alias is not None:
            return list(self._pools.get(alias, ()))
        return [pool for pools in list(self._pools.values()) for pool in pools]

    def pool_for(self, wrapper: Any, driver: Driver) -> DatabasePool:
        """The pool for what the wrapper's settings say this instant."""
        if not fork.noticed[0]:
            fork.notice()
        pool = self._serving(wrapper)
        if pool is not None:
            pool.closing = False
            if len(self._pools.get(wrapper.alias, ())) > 1:
                self._retire(wrapper.alias)
            return pool
        exporters.start()
        with self._lock:
            pool = self._serving(wrapper)
            if pool is not None:
                return pool
            made = DatabasePool(wrapper, driver)
            self._pools = {**self._pools, wrapper.alias: (made, *self._pools.get(wrapper.alias, ()))}
        limits = made.limits
        made.journal.note("created", size=limits.size, max_outstanding=limits.max_outstanding)
        self._housekeeper.ensure_running()
        self._retire(wrapper.alias)
        # Not in patch(): that may be called before the applications connect their receivers.
        checks.say_once(checks.receiver_warnings())
        if green.patched("socket"):
            # Nor was gevent there, if a process patched itself after a fork.
            checks.say_once(checks.advice())
        return made

    def _serving(self, wrapper: Any) -> DatabasePool | None:
        """The pool that there is for what the wrapper's settings say this instant."""
        for pool in self._pools.get(wrapper.alias, ()):
            if pool.serves(wrapper):
                return pool
        return None

    def teach(self, wrapper: Any) -> None:
        """Let a wrapper that hasn't connected yet know its pool, and what that has learned of the server."""
        for pool in self._pools.get(wrapper.alias, ()):
            if pool.serves(wrapper):
                wrapper.__dict__.update(pool.learned, _pool=pool)

    def retire_outdated(self, alias: str | None = None) -> None:
        """Nothing stays in pools whose settings have changed."""
        for pool in self.pools(alias):
            if pool.is_outdated():
                if not pool.closing:
                    pool.journal.note("retired")
                pool.closing = True
                pool.drain()

    def _retire(self, alias: str | None = None) -> None:
        tasks.run("ending pools of other settings", partial(self.retire_outdated, alias))

    def ensure_looked_after(self) -> None:
        self._housekeeper.ensure_running()

    def _look_after(self) -> bool:
        is_heard = reports.is_on()
        self._retire()
        if is_heard:
            tasks.run("carrying out commands", self._obey)
        for pool in self.pools():
            pool.tasks.run(f"looking after the pool {pool.name!r}", pool.maintain)
            pool.tasks.run(f"MIN_SIZE of the pool {pool.name!r}", partial(self._fill, pool))
        exporters.tick()
        tasks.run("forgetting pools that have ended", self._forget_empty)
        pools = self.pools()
        if pools and is_heard:
            tasks.run("telling other processes", self._publish)
            return True
        return any(len(pool) or pool.limits.min_size or pool.journal.is_pending for pool in pools)

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

    def _publish(self) -> None:
        self._publisher.publish(self.all_stats(), self.pools(), list(self._listener.obeyed))

    def _obey(self) -> None:
        """Carry out what was ordered: each, should another one fail. Raises what failed."""
        with ExitStack() as last_first:
            # None of them comes a second time.
            for order in reversed(self._listener.due()):
                for pool in self.pools(order.alias):
                    last_first.callback(pool.recycle if order.action is Action.RECYCLE else pool.drain)
                    details = {"action": str(order.action), "by": redact(order.by)}
                    last_first.callback(pool.journal.note, "ordered", **details)

    def report(self) -> Report | None:
        """What this process would tell others at this moment; None while it has no pool."""
        pools = self.pools()
        return self._publisher.report(self.all_stats(), pools, list(self._listener.obeyed)) if pools else None

    def refusal(self) -> str | None:
        """Why this process can't tell others anything; None where it can, or hasn't tried yet."""
        return self._publisher.refusal

    def _forget_empty(self) -> None:
        with self._lock:
            forgotten = self._take_out_empty()
        for pool in forgotten:
            pool.journal.write(is_last=True)

    def _take_out_empty(self) -> list[DatabasePool]:
        taken_out: list[DatabasePool] = []
        for alias, pools in self._pools.items():
            over = [pool for pool in pools if pool.closing and not len(pool)]
            for pool in over:
                past = self._past.get(alias)
                told = pool.snapshot()
                self._past[alias] = told if past is None else told.plus(past)
            if over:
                kept = tuple(pool for pool in pools if pool not in over)
                self._pools = {**self._pools, alias: kept}
                taken_out += over
        return taken_out

    def apply_limits(self) -> None:
        """Limits have changed: tell every pool."""
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

    def end(self) -> None:
        """The process ends: say goodbye to the servers, who would log aborted connections else."""
        for pool in self.pools():
            tasks.run(f"closing the pool {pool.name!r}", pool.drain_here)
            tasks.run(f"the log of the pool {pool.name!r}", partial(pool.journal.write, is_last=True))
        if self._pools:
            exporters.end()
        tasks.run("telling other processes of the end", self._publisher.forget)

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

    def cut_off(self) -> None:
        """In a forked child: nothing that is written to the parent's connections reaches its servers."""
        for pool in self.pools():
            # For wrappers that know it.
            pool.closing = True
            fork.cut_off(pool.dialect.fileno(connection) for connection in pool.connections())

    def abandon(self) -> None:
        """In a forked child: begin anew, and let the parent's connections be."""
        fork.never_free(self._pools)
        self.__init__()  # type: ignore[misc]


registry = Registry()
