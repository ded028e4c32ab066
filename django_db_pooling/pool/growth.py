"""How a pool grows: who may open a connection, and what callers do while the server is away."""

from __future__ import annotations

import random

AT_A_TIME = 2
# One more may start to open when all that are opening have taken this many seconds.
STALLED = 0.5
# Between one caller's attempts while the server is away (seconds): longer the longer it is.
MIN_PAUSE = 0.05
MAX_PAUSE = 0.5


class Growth:
    """The slots whose holders are opening connections, and how that went lately.

    Times are those of ``time.monotonic()``, passed in by the caller. Seconds that a caller may wait for the
    server (``max_wait``) are ``CONNECT_RETRY``.
    """

    def __init__(self) -> None:
        # Slot number -> since when.
        self._opening: dict[int, float] = {}
        # When the last attempt failed, and with what; None once one has succeeded.
        self.last_error: tuple[float, Exception] | None = None
        # When a caller first got an error; None once an attempt has succeeded.
        self._failing_since: float | None = None
        # When the first of the attempts that found no server began.
        self._away_since: float | None = None
        # Attempts have found no server for as long as callers may wait.
        self.outage = False

    def __len__(self) -> int:
        return len(self._opening)

    @property
    def away(self) -> bool:
        """Whether the last attempts have found no server."""
        return self._away_since is not None

    def begin(self, number: int, now: float) -> None:
        self._opening[number] = now

    def begun(self, number: int) -> float:
        """When; 0 for one that isn't opening."""
        return self._opening.get(number, 0.0)

    def end(self, number: int) -> None:
        self._opening.pop(number, None)

    def may_begin(self, now: float, others: bool) -> bool:
        """Whether one more may open. ``others``: somebody has a connection that may come back soon."""
        opening = list(self._opening.values())
        if self.away:
            # One probes; and where there is something to wait for, not all the time.
            return not opening and not (others and now - self._last_failure() < MAX_PAUSE)
        return len(opening) < AT_A_TIME or all(now - since > STALLED for since in opening)

    def _last_failure(self) -> float:
        return 0.0 if self.last_error is None else self.last_error[0]

    def fails_fast(self, now: float, max_wait: float) -> bool:
        """Whether the server was away so lately that nobody needs to wait for the next attempt."""
        return self.outage and now - self._last_failure() <= max(max_wait, MAX_PAUSE)

    def succeeded(self) -> float | None:
        """Since when callers have got errors until now; None: they haven't."""
        since, self._failing_since = self._failing_since, None
        self.last_error = self._away_since = None
        self.outage = False
        return since

    def gave_up(self, error: Exception, now: float) -> bool:
        """A caller gets this error. Whether it is the first one since connecting has succeeded."""
        self.failed(error, now)
        is_first = self._failing_since is None
        if is_first:
            self._failing_since = now
        return is_first

    def failed(self, error: Exception, now: float) -> None:
        self.last_error = (now, error)

    def found_no_server(self, began: float, now: float, max_wait: float) -> float | None:
        """An attempt that began then found no server.

        Seconds to wait before the next one, or None: it has been away for longer than ``max_wait``.
        """
        last = self._last_failure()
        if self._away_since is None or (not self.outage and began - last > max(max_wait, MAX_PAUSE)):
            # For the first time, or the last time is long ago.
            self._away_since = began
        away = now - self._away_since
        if away >= max_wait:
            self.outage = True
            return None
        return min(max(away, MIN_PAUSE), MAX_PAUSE) * random.uniform(0.5, 1.0)
