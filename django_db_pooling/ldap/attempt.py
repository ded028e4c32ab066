"""A blocking call that can't be interrupted, in a native thread: its caller may leave before it ends.

The calls connect in libldap, where nothing limits a TLS handshake. So an attempt that goes on for longer than
it may, or that nobody waits for any more, is ended from outside: see ``endings``.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from django_db_pooling.ldap import endings
from django_db_pooling.process import green
from django_db_pooling.process.wakeup import Here

_here = Here()


class AttemptTimeout(Exception):
    """The call isn't over in time. ``seconds``: how long its caller has waited."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"not over after {seconds:.1f} s")
        self.seconds = seconds


class Attempt:
    """Calls ``make`` at once in a native thread, under gevent, too, and then ``keep`` with what it returns.

    ``seconds``: until it is ended from outside; None: no limit. Where that can't be done it is freed some
    time later: it counts as over, and what it makes after all is given to ``drop``.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        keep: Callable[[Any], None],
        drop: Callable[[Any], None],
        seconds: float | None,
    ) -> None:
        # Its caller sleeps on it: see process.wakeup.Sleeper.
        self.outcome: bool | None = None
        self.asleep: Any = None
        self.began = time.monotonic()
        self.until = math.inf if seconds is None else self.began + seconds
        # What it is doing, and may be ended at.
        self.step: endings.Step | None = None
        self._is_freed = False
        # A native one, held for an instant by two native threads: nothing interrupts these.
        self._lock = green.original("_thread", "allocate_lock")()
        self._sleepers = _here()
        self._error: BaseException | None = None
        self._callbacks: deque[Callable[[], None]] = deque()
        green.original("_thread", "start_new_thread")(self._run, (make, keep, drop))

    @property
    def is_over(self) -> bool:
        return self.outcome is not None or self._is_freed

    def wait(self) -> None:
        """Wait for the end. Raises the call's error, and AttemptTimeout where it isn't over in time.

        It is ended soon if its caller leaves before that, by whatever exception.
        """
        try:
            self._wait()
        finally:
            if not self.is_over:
                self.until = min(self.until, time.monotonic())
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error

    def _wait(self) -> None:
        while not self.is_over:
            now = time.monotonic()
            if now >= self.until:
                raise AttemptTimeout(now - self.began)
            self._sleepers.sleep(self, self.until - now)

    def when_over(self, function: Callable[[], None]) -> None:
        """Call it at the end, in the attempt's thread; at once, in this one, where the attempt is over."""
        self._callbacks.append(function)
        if self.is_over:
            self._run_callbacks()

    def free(self) -> bool:
        """Count as over, although it goes on: nobody waits for it. False where it is over."""
        with self._lock:
            if self.is_over:
                return False
            self._is_freed = True
        self._run_callbacks()
        return True

    def _run(self, make: Callable[[], Any], keep: Callable[[Any], None], drop: Callable[[Any], None]) -> None:
        endings.begin(self)
        try:
            self._hand_over(make(), keep, drop)
        except BaseException as error:
            self._error = error
        finally:
            self.outcome = True
            endings.end(self)
            self._sleepers.wake(self)
            self._run_callbacks()

    def _hand_over(self, made: Any, keep: Callable[[Any], None], drop: Callable[[Any], None]) -> None:
        with self._lock:
            if not self._is_freed:
                keep(made)
                return
        drop(made)

    def _run_callbacks(self) -> None:
        while True:
            try:
                function = self._callbacks.popleft()
            except IndexError:
                return
            function()
