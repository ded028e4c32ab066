"""A greenlet that wants to run often. What delays it delays all others, too."""

from __future__ import annotations

import time

import gevent

TICK_SECONDS = 0.002


class Ticker:
    """Ticks from when it is first asked. Before that it costs nothing."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._greenlet: gevent.Greenlet | None = None

    def longest_gap(self) -> float:
        """Seconds by which a tick was late, at most, since the last time this was asked."""
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._tick)
        longest, self._longest = self._longest, 0.0
        return longest

    def _tick(self) -> None:
        last = time.perf_counter()
        while True:
            gevent.sleep(TICK_SECONDS)
            now = time.perf_counter()
            self._longest = max(self._longest, now - last - TICK_SECONDS)
            last = now
