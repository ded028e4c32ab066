"""A planned interruption: nobody is handed a connection or opens one, and all who need one wait in line.

Who has a connection goes on with it, and it is closed when it comes back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from django_db_pooling.pool.journal import Journal

# The generation of what is opened during one all the same: it is closed when it comes back, too.
STALE = -1


class Pause:
    """Of one pool. It ends by itself: whoever asks compares the time."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        # Of time.monotonic(); 0: it isn't paused, and whoever was to be told that was. The latest of these:
        self.until = 0.0
        # When each ends that has begun. One may begin while another thread ends the one before.
        self._ends: set[float] = set()
        self._began = 0.0
        # When the last one ended.
        self.ended = 0.0
        # Called when one has begun: closes what is idle, and the others as they come back; and when it has
        # ended: serves those who wait.
        self.on_begin: Callable[[], None] = lambda: None
        self.on_end: Callable[[], None] = lambda: None

    @property
    def is_on(self) -> bool:
        return self.until > 0.0 and time.monotonic() < self.until

    @property
    def left(self) -> float | None:
        """Seconds; None: it isn't paused."""
        until = self.until
        seconds = until - time.monotonic() if until else 0.0
        return seconds if seconds > 0 else None

    def begin(self, seconds: float) -> None:
        """For so long, or as long as one that is on lasts, if that is longer (I/O)."""
        now = time.monotonic()
        if not self.is_on:
            self._began = now
        # First of all: whoever opens a connection looks at this last.
        self._ends.add(now + seconds)
        self._set_until()
        self._journal.note("paused", seconds=self.until - now)
        self.on_begin()

    def end(self) -> None:
        """Whoever waits goes on. Nothing where it isn't paused."""
        self._end(math.inf)

    def end_in_time(self) -> None:
        """Where its time is over."""
        if self.until and time.monotonic() >= self.until:
            self._end(time.monotonic())

    def _end(self, last: float) -> None:
        """Those that end until then."""
        until, now = self.until, time.monotonic()
        if until:
            self.ended = min(until, now)
        self._ends.difference_update({end for end in self._ends.copy() if end <= last})
        self._set_until()
        if until and not self.until:
            self._journal.note("resumed", seconds=min(until, now) - self._began)
            self.on_end()

    def _set_until(self) -> None:
        """Written before it is read: whoever writes last has seen what all have written."""
        while True:
            until = max(self._ends.copy(), default=0.0)
            self.until = until
            if until == max(self._ends.copy(), default=0.0):
                return
