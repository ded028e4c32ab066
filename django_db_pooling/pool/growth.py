"""How a pool grows: who may open a connection, and what callers do while the server is away."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

AT_A_TIME = 2
# One more may start to open when all that are opening have taken this many seconds.
STALLED = 0.5
# Between one caller's attempts while the server is away (seconds): longer the longer it is.
MIN_PAUSE = 0.05
MAX_PAUSE = 0.5
# No more is opened for so many seconds after the server has refused that, where connections may come back.
REST = 2.0


class Growth:
    """The slots whose holders are opening connections, and how that went lately.

    Times are those of ``time.monotonic()``, passed in by the caller. Seconds that a caller may wait for the
    server (``max_wait``) are ``CONNECT_RETRY``. ``of`` has the part of one server, which may be away while
    others are not.
    """

    def __init__(self, server_of: Callable[[Any], object] = lambda affinity: None) -> None:
        # Slot number -> since when, and whose.
        self._opening: dict[int, tuple[float, Growth]] = {}
        # Those whose server is away or has refused one more.
        self.failing: set[Growth] = set()
        self._server_of = server_of
        self._parts: dict[object, Growth] = {}
        # When the last attempt failed, and with what; None once one has succeeded.
        self.last_error: tuple[float, Exception] | None = None
        # When a caller first got an error; None once an attempt has succeeded.
        self._failing_since: float | None = None
        # When the first of the attempts that found no server began.
        self._away_since: float | None = None
        # Attempts have found no server for as long as callers may wait.
        self.outage = False
        self._rests_until = 0.0

    def __len__(self) -> int:
        return len(self._opening)

    def of(self, affinity: object) -> Growth:
        """The part of the server to which connections of this affinity lead."""
        server = self._server_of(affinity)
        if server is None:
            return self
        part = self._parts.get(server)
        if part is None:
            made = Growth()
            made._opening, made.failing = self._opening, self.failing
            part = self._parts.setdefault(server, made)
        return part

    def forget(self, server: object) -> None:
        """Nobody connects to it any more."""
        part = self._parts.pop(server, None)
        if part is not None:
            self.failing.discard(part)

    @property
    def attempts(self) -> int:
        """How many of those that are opening try this server."""
        return sum(part is self for _, part in list(self._opening.values()))

    @property
    def latest_error(self) -> tuple[float, Exception] | None:
        """Of all servers to which connecting has failed since it has succeeded."""
        errors = [part.last_error for part in (self, *list(self._parts.values()))]
        return max(filter(None, errors), key=lambda error: error[0], default=None)

    @property
    def away(self) -> bool:
        """Whether the last attempts have found no server."""
        return self._away_since is not None

    @property
    def fails(self) -> bool:
        """Whether a caller has got an error, and no attempt has succeeded since."""
        return self.outage or self._failing_since is not None

    def begin(self, number: int, now: float) -> None:
        self._opening[number] = now, self

    def begun(self, number: int) -> float:
        """When; 0 for one that isn't opening."""
        return self._opening.get(number, (0.0, self))[0]

    def end(self, number: int) -> None:
        self._opening.pop(number, None)

    def may_begin(self, now: float, others: bool) -> bool:
        """Whether one more may open. ``others``: somebody has a connection that may come back soon."""
        opening = list(self._opening.values())
        if others and self.is_resting(now):
            return False
        if self.away:
            # One probes; and where there is something to wait for, not all the time.
            return not self.attempts and not (others and now - self._last_failure() < MAX_PAUSE)
        return len(opening) < AT_A_TIME or all(now - since > STALLED for since, _ in opening)

    def is_resting(self, now: float) -> bool:
        return now < self._rests_until

    def rest(self, now: float) -> None:
        """One more was refused, and there are others to wait for."""
        self._rests_until = now + REST
        self.failing.add(self)

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
        self._rests_until = 0.0
        self.failing.discard(self)
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
        self.failing.add(self)
        away = now - self._away_since
        if away >= max_wait:
            self.outage = True
            return None
        return min(max(away, MIN_PAUSE), MAX_PAUSE) * random.uniform(0.5, 1.0)
