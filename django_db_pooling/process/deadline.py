"""By when something is to be done, however many steps it takes."""

from __future__ import annotations

import time
from typing import Any

# For talking to the server (seconds), also where the time is nearly over: granted once.
MIN_SECONDS = 1.0
# Nothing can be waited for in no time.
SHORTEST = 0.01


class Deadline:
    """One for all of a checkout: waiting, questions to connections that may be dead, a reset, connecting.

    ``seconds``: from ``began`` on, of ``time.monotonic()``; None: no limit. ``until``: its end or None.
    """

    __slots__ = ("_talking_until", "began", "connecting", "queued", "until", "watches")

    def __init__(self, seconds: float | None, began: float | None = None) -> None:
        self.began = time.monotonic() if began is None else began
        self.until = None if seconds is None else self.began + seconds
        self._talking_until: float | None = None
        # Seconds of it, until now: in the queue of a pool, and for opening connections.
        self.queued = self.connecting = 0.0
        # Who watches it; none until it waits.
        self.watches: tuple[Any, ...] = ()

    def left(self) -> float | None:
        """Seconds for talking to the server; None: no limit."""
        if self.until is None:
            return None
        now = time.monotonic()
        if self._talking_until is None:
            self._talking_until = max(self.until, now + MIN_SECONDS)
        return max(self._talking_until - now, SHORTEST)

    @property
    def is_over(self) -> bool:
        """Whether there is no time left, neither for waiting nor for talking."""
        if self.until is None:
            return False
        return time.monotonic() >= (self.until if self._talking_until is None else self._talking_until)
