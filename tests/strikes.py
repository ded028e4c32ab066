"""A signal's handler that raises, as those of Celery and RQ do to end a task that takes too long."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

PACKAGE = "/django_db_pooling/"
# Elsewhere than in the package, and in finalizers, where what is raised goes nowhere, it strikes so much
# later (seconds).
LATER = 0.00002
# Less, and the timer takes it for never.
SHORTEST = 0.000001
# A point that was struck so often is not struck any more: chance alone would strike those that are passed
# quickly too seldom.
ENOUGH = 5


class Struck(Exception):
    """As Celery's SoftTimeLimitExceeded."""


class Strikes:
    """Strikes the main thread while it runs this package."""

    def __init__(self, error: type[BaseException] = Struck, enough: float = ENOUGH) -> None:
        self._error, self._enough = error, enough
        self._may_strike = False
        # Where the machine is busy, the next alarm may come while this one is still answered.
        self._depth = 0
        # (code, instruction) -> how often.
        self.hits: Counter[tuple[CodeType, int]] = Counter()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Strike in the block, once, after so many seconds, if that lasts longer."""
        before = signal.signal(signal.SIGALRM, self._strike)
        self._may_strike = True
        # A test's own timeout may use the timer, too.
        remaining, _ = signal.setitimer(signal.ITIMER_REAL, max(seconds, SHORTEST))
        try:
            yield
        finally:
            self._may_strike = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            signal.setitimer(signal.ITIMER_REAL, remaining)

    def _strike(self, number: int, frame: FrameType | None) -> None:
        if not self._may_strike:
            return
        self._depth += 1
        try:
            if frame is not None and PACKAGE in frame.f_code.co_filename and not _in_finalizer(frame):
                point = frame.f_code, frame.f_lasti
                if self.hits[point] < self._enough:
                    self.hits[point] += 1
                    raise self._error
            signal.setitimer(signal.ITIMER_REAL, LATER * 2**self._depth)
        finally:
            self._depth -= 1

    def __str__(self) -> str:
        return f"{self.hits.total()} strikes at {len(self.hits)} points"


def _in_finalizer(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
