"""Overload: more is asked for than the pool can give, for longer than a burst.

First come, first served, all would wait for as long as they can, and be served when nobody waits for the
answer any more. So while nobody is served soon, those are turned away who have waited for long already: then
whoever is served is served in time. (The idea is CoDel's, "controlled delay".)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from django_db_pooling.pool.slots import Slots
from django_db_pooling.pool.waiter import Shed, Waiter

# The pool is overloaded after so many seconds, or so many targets.
INTERVAL, TARGETS = 1.0, 10


class Shedding:
    """Of the queue of one pool. ``serve``: gives a waiter an outcome; False where it isn't there any more."""

    def __init__(
        self, target: float, slots: Slots, waiters: deque[Waiter], serve: Callable[[Waiter, Shed], bool]
    ) -> None:
        self.target = target
        self._interval = max(INTERVAL, TARGETS * target)
        self._slots = slots
        self._waiters = waiters
        self._serve = serve
        # When somebody was last served who had waited for less than the target, or nobody waited.
        self._good_at = time.monotonic()
        # Waits count from then on: before, there was another reason for them.
        self._since = self._good_at

    @property
    def is_overloaded(self) -> bool:
        pause = self._slots.pause
        if pause.is_on or not self._waiters:
            return False
        return time.monotonic() - max(self._good_at, pause.ended) >= self._interval

    def nobody_waits(self) -> None:
        """But the caller, who has just come."""
        self._good_at = time.monotonic()

    def served(self, waiter: Waiter) -> None:
        """It gets a slot now."""
        now = time.monotonic()
        if now - max(waiter.came, self._since) < self.target:
            self._good_at = now

    def shed(self) -> None:
        """Turn away those who have waited for too long. Called wherever somebody may be served."""
        if self._slots.pause.is_on:
            return
        now, ended = time.monotonic(), self._slots.pause.ended
        # That they have waited for one of these says nothing of how much is asked for.
        if ended > self._since:
            self._good_at = self._since = ended
        if self._slots.growth.failing:
            self._good_at = self._since = now
        if now - self._good_at < self._interval:
            return
        while self._waiters:
            try:
                head = self._waiters[0]
            except IndexError:
                return
            if now - max(head.came, self._since) <= 2 * self.target:
                return
            self._serve(head, Shed())
