"""How a caller sleeps until another one wakes it: in native threads, and in gevent's greenlets."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from django_db_pooling.process import green

# Sleepers look around this often (seconds): whoever should have woken one may have been interrupted.
RECHECK_INTERVAL = 0.5


class Sleeper(Protocol):
    """Who sleeps until it has an outcome.

    Each side writes before it reads: whoever wakes sets ``outcome`` and looks for who is asleep then, the
    sleeper sets ``asleep`` before it looks for an outcome. So no wake-up gets lost, and one that comes too
    late finds nobody asleep.
    """

    # What it waits for; None: nothing yet.
    outcome: Any
    # What it sleeps on, a lock or its greenlet; None: it is awake.
    asleep: Any


class Sleepers(Protocol):
    """Where sleepers sleep: those that are woken in the same way."""

    def sleep(self, sleeper: Sleeper, seconds: float) -> None:
        """Until it is woken, for so long at most; it may wake earlier, without an outcome."""

    def wake(self, sleeper: Sleeper) -> None:
        """After its ``outcome`` was set. Callable from any thread and from finalizers; doesn't switch."""


class ThreadSleepers:
    """Native threads. They look for themselves."""

    def sleep(self, sleeper: Sleeper, seconds: float) -> None:
        lock = threading.Lock()
        lock.acquire()
        try:
            sleeper.asleep = lock
            if sleeper.outcome is None and seconds > 0:
                lock.acquire(timeout=min(seconds, RECHECK_INTERVAL))
        finally:
            sleeper.asleep = None

    def wake(self, sleeper: Sleeper) -> None:
        lock = sleeper.asleep
        if lock is not None:
            with contextlib.suppress(RuntimeError):
                # Released: it was woken already.
                lock.release()


class GreenletSleepers:
    """Greenlets of one hub, whichever native thread wakes them. One timer serves all of them.

    ``look``: called every ``RECHECK_INTERVAL`` in their stead, as long as anybody sleeps.
    """

    __slots__ = (
        "_deadline",
        "_deadline_at",
        "_get_ident",
        "_getcurrent",
        "_look",
        "_recheck",
        "_thread",
        "_until",
        "hub",
    )

    def __init__(self, hub: Any, look: Callable[[], object]) -> None:
        self.hub = hub
        self._getcurrent = sys.modules["greenlet"].getcurrent
        self._get_ident = green.original("_thread", "get_ident")
        self._thread = hub.thread_ident
        self._look = look
        # Until when each sleeps.
        self._until: dict[Sleeper, float] = {}
        # It goes on by itself: nothing that interrupts a call of it ends it. Without sleepers it is stopped,
        # since a timer that runs keeps gevent's loop from ending.
        self._recheck = hub.loop.timer(RECHECK_INTERVAL, RECHECK_INTERVAL)
        # For a deadline that is over before that rings.
        self._deadline: Any = None
        self._deadline_at = math.inf

    def sleep(self, sleeper: Sleeper, seconds: float) -> None:
        try:
            sleeper.asleep = self._getcurrent()
            self._until[sleeper] = until = time.monotonic() + seconds
            if not self._recheck.active:
                self._recheck.start(self._ring)
            if seconds < RECHECK_INTERVAL:
                self._ring_at(until)
            if sleeper.outcome is None:
                self.hub.switch()
        finally:
            # First of all: whoever woke it from here on would switch into something else.
            sleeper.asleep = None
            self._until.pop(sleeper, None)
            if not self._until:
                self._stop()

    def wake(self, sleeper: Sleeper) -> None:
        if sleeper.asleep is not None:
            loop = self.hub.loop
            if self._thread == self._get_ident():
                loop.run_callback(_resume, sleeper)
            elif loop is not None:
                # None: its thread has ended.
                loop.run_callback_threadsafe(_resume, sleeper)

    def _ring(self) -> None:
        """Called in the hub: wake whose time is over, and who was not woken although it has an outcome."""
        now = time.monotonic()
        # Without those that were interrupted where they woke.
        self._until = until = {one: its for one, its in self._until.items() if one.asleep is not None}
        if not until:
            self._stop()
            return
        for sleeper in [one for one, its in until.items() if its <= now or one.outcome is not None]:
            self.wake(sleeper)
        nearest = min((its for its in until.values() if its > now), default=math.inf)
        if nearest < now + RECHECK_INTERVAL:
            self._ring_at(nearest)
        self._look()

    def _ring_at(self, at: float) -> None:
        deadline = self._deadline
        if deadline is not None and deadline.active and self._deadline_at <= at:
            return
        self._deadline = made = self.hub.loop.timer(max(at - time.monotonic(), 0.0))
        self._deadline_at = at
        made.start(self._ring)
        if deadline is not None:
            deadline.stop()
            deadline.close()

    def _stop(self) -> None:
        self._recheck.stop()
        if self._deadline is not None:
            self._deadline.stop()


def _resume(sleeper: Sleeper) -> None:
    """Called in the hub. Its greenlet may have gone on meanwhile, to sleep on something else."""
    greenlet = sleeper.asleep
    if greenlet is not None:
        greenlet.switch()


class Here:
    """A call gives the sleepers that the caller can sleep among, in this thread or hub.

    ``look``: what a sleeper would do every ``RECHECK_INTERVAL``.
    """

    __slots__ = ("_get_hub", "_local", "_look", "_threads")

    def __init__(self, look: Callable[[], object] = lambda: None) -> None:
        self._look = look
        self._threads = ThreadSleepers()
        # Of native threads, and gone with them, whatever gevent has patched.
        self._local = green.original("_thread", "_local")()
        self._get_hub: Callable[[], Any] | None = None

    def __call__(self) -> Sleepers:
        get_hub = self._get_hub
        if get_hub is None:
            if not green.patched("threading"):
                return self._threads
            get_hub = self._get_hub = sys.modules["gevent"].get_hub
        hub = get_hub()
        try:
            mine: GreenletSleepers = self._local.sleepers
            if mine.hub is hub:
                return mine
        except AttributeError:
            pass
        mine = self._local.sleepers = GreenletSleepers(hub, self._look)
        return mine
