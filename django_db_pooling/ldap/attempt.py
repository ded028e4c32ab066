"""A blocking call that can't be interrupted, in a native thread: its caller may leave before it ends."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from django_db_pooling.process import green
from django_db_pooling.process.wakeup import Here

_here = Here()


class AttemptTimeout(Exception):
    """The call isn't over in time; it goes on. ``seconds``: how long its caller has waited."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"not over after {seconds:.1f} s")
        self.seconds = seconds


class Attempt:
    """Runs ``call`` at once in a native thread, under gevent, too.

    For connecting in C: it blocks gevent's hub, and neither a deadline nor an exception in Python ends it.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        # Its caller sleeps on it: see process.wakeup.Sleeper.
        self.outcome: bool | None = None
        self.asleep: Any = None
        self._sleepers = _here()
        self._error: BaseException | None = None
        self._callbacks: deque[Callable[[], None]] = deque()
        green.original("_thread", "start_new_thread")(self._run, (call,))

    @property
    def is_over(self) -> bool:
        return self.outcome is not None

    def wait(self, seconds: float | None) -> None:
        """Wait for the end. Raises the call's error, and AttemptTimeout after ``seconds``; None: no limit."""
        began = time.monotonic()
        while not self.is_over:
            left = math.inf if seconds is None else began + seconds - time.monotonic()
            if left <= 0:
                raise AttemptTimeout(time.monotonic() - began)
            self._sleepers.sleep(self, left)
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error

    def when_over(self, function: Callable[[], None]) -> None:
        """Call it at the end, in the attempt's thread; at once, in this one, where the attempt is over."""
        self._callbacks.append(function)
        if self.is_over:
            self._run_callbacks()

    def _run(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            self._error = error
        finally:
            self.outcome = True
            self._sleepers.wake(self)
            self._run_callbacks()

    def _run_callbacks(self) -> None:
        while True:
            try:
                function = self._callbacks.popleft()
            except IndexError:
                return
            function()
