"""Warm-up: connections that are opened before anybody asks for one."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterable
from typing import Any

from django.db import connections as wrappers
from django.utils.asyncio import async_unsafe

from django_db_pooling import conf
from django_db_pooling.backend.base import LeaseHolder
from django_db_pooling.backend.checkout import find_identity
from django_db_pooling.database_pool import Identity
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.pool.slot import Slot
from django_db_pooling.process import fork, green
from django_db_pooling.process.deadline import Deadline

# Who opens at the same time, for one alias. A pool lets few begin; one more while these take long.
OPENERS = 8
# Seconds between two looks whether one more may be opened.
LOOK = 0.01
# Attempts to connect have the same deadline, but at least a second or, of libpq, two.
GRACE = 2.5


@async_unsafe
def warm_up(aliases: Iterable[str], connections: int | None, timeout: float | None) -> None:
    """See ``pooling.warm_up()``."""
    conf.check_warm_up(connections, timeout)
    deadline = Deadline(timeout)
    identities = [identity for alias in aliases if (identity := identity_of(alias)) is not None]
    wanted = [_wanted(identity, connections) for identity in identities]
    WarmUp([want for want in wanted if not want.is_met], deadline).run()


def identity_of(alias: str) -> Identity | None:
    """That of the alias's settings, with its pool; None where it isn't pooled."""
    wrapper: Any = wrappers[alias]
    return find_identity(wrapper) if isinstance(wrapper, LeaseHolder) else None


class Wanted:
    """So many open connections of an identity, in the hub of the caller."""

    def __init__(self, identity: Identity, connections: int) -> None:
        self.identity = identity
        self.affinity = identity.affinity()
        self.connections = connections
        # By this warm-up. It opens no more than it wants, should the pool close each at once.
        self.opened = 0
        self._was_met = False

    @property
    def slots(self) -> list[Slot]:
        """With those whose connection is still being opened."""
        return [slot for slot in self.identity.pool.slots.all() if slot.affinity == self.affinity]

    @property
    def open(self) -> int:
        """How many are, in whatever use."""
        return sum(bool(slot.opened_at) for slot in self.slots)

    @property
    def is_met(self) -> bool:
        """Whether there were so many at a moment; later some may be closed again."""
        if not self._was_met:
            self._was_met = max(self.opened, self.open) >= self.connections
        return self._was_met


def _wanted(identity: Identity, connections: int | None) -> Wanted:
    pool = identity.pool
    most = pool.limits.max_outstanding
    if connections is None:
        connections = pool.least if pool.limits.min_size else 1
    elif most is not None and connections > most:
        raise ValueError(f"connections must be at most {most}, max_outstanding of {pool.name!r}")
    return Wanted(identity, connections)


class WarmUp:
    """One call. Its openers are threads, under gevent greenlets of the caller's hub: what they open works
    there. Whatever interrupts the caller ends them: greenlets at once, threads after the attempt that
    they are at, which has the same deadline.
    """

    def __init__(self, wanted: list[Wanted], deadline: Deadline) -> None:
        self._wanted = wanted
        self._deadline = deadline
        self._is_over = False
        self._error: Exception | None = None
        self._openers: list[threading.Thread] = []
        self._greenlets: list[Any] = []
        self._lock = threading.Lock()

    def run(self) -> None:
        try:
            self._start()
            self._wait(math.inf if self._deadline.until is None else self._deadline.until)
        finally:
            self._is_over = True
            self._kill()
        self._wait(time.monotonic() + GRACE)
        if self._error is not None:
            try:
                raise self._error
            finally:
                # Its traceback refers to this frame.
                self._error = None
        self._check()

    def _start(self) -> None:
        for want in self._wanted:
            for number in range(min(want.connections, OPENERS)):
                name = f"django_db_pooling warm-up {want.identity.pool.name} {number + 1}"
                opener = threading.Thread(target=self._open, args=(want,), name=name, daemon=True)
                if fork.forks_silently():
                    # No threads there.
                    self._open(want)
                else:
                    self._openers.append(opener)
                    opener.start()

    def _wait(self, until: float) -> None:
        for opener in self._openers:
            left = until - time.monotonic()
            if opener.ident is not None and left > 0:
                opener.join(min(left, threading.TIMEOUT_MAX))

    def _kill(self) -> None:
        for greenlet in self._greenlets:
            greenlet.kill(block=False)

    def _check(self) -> None:
        """Raise PoolTimeout where one isn't as it was wanted."""
        for want in self._wanted:
            if not want.is_met:
                pool, began = want.identity.pool, self._deadline.began
                waited = time.monotonic() - began
                why = f"{want.open} of {want.connections} were open after a warm-up of {waited:.1f} s"
                refusal = pool.queue.refusal(waited, why, counted=False)
                raise PoolTimeout(str(refusal), waited, pool.name)

    # -- in the openers ----------------------------------------------------------------------------

    def _open(self, want: Wanted) -> None:
        greenlet = green.current()
        try:
            if greenlet is not None:
                self._greenlets.append(greenlet)
            self._open_all(want)
        except Exception as error:
            # The first one is told.
            self._error = self._error or error
            self._is_over = True
        except BaseException:
            # A kill. Whoever has called finds what is missing.
            self._is_over = True
        finally:
            if greenlet is not None:
                with contextlib.suppress(ValueError):
                    self._greenlets.remove(greenlet)

    def _open_all(self, want: Wanted) -> None:
        while not (want.is_met or self._is_over or self._deadline.is_over):
            slot = self._reserve(want)
            if slot is None:
                time.sleep(LOOK)
                continue
            wrapper = want.identity.new_wrapper()
            with wrapper.wrap_database_errors:
                wrapper.fill(want.identity, slot, self._deadline)
            with self._lock:
                want.opened += bool(slot.opened_at)
            # Only who has it keeps it.
            del slot

    def _reserve(self, want: Wanted) -> Slot | None:
        with self._lock:
            if len(want.slots) >= want.connections:
                return None
            return want.identity.pool.reserve(want.affinity, "a warm-up")
