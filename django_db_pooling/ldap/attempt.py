"""A call that nothing can interrupt, in a native thread of its own; who waits for it can leave."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from django_db_pooling.process import green
from django_db_pooling.process.wakeup import Wakeup

# A ring is only a hint: seconds between looks.
RECHECK_INTERVAL = 0.5


class Late(Exception):
    """The call isn't over in time; it goes on. ``seconds``: how long it was waited for."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"not over after {seconds:.1f} s")
        self.seconds = seconds


class Attempt:
    """Runs ``call`` at once. Under gevent, too, in a native thread: it may block that.

    ``wakeup``: of whoever waits. For connecting in C, which blocks gevent's hub, and which no deadline and no
    exception of Python's ends.
    """

    def __init__(self, call: Callable[[], None], wakeup: Wakeup) -> None:
        self.is_over = False
        self._wakeup = wakeup
        self._error: BaseException | None = None
        self._afterwards: deque[Callable[[], None]] = deque()
        green.original("_thread", "start_new_thread")(self._run, (call,))

    def wait(self, seconds: float | None) -> None:
        """Until the call is over. Raises its error, and Late after so many seconds; None: no limit."""
        began = time.monotonic()
        while not self.is_over:
            left = RECHECK_INTERVAL if seconds is None else began + seconds - time.monotonic()
            if left <= 0:
                raise Late(time.monotonic() - began)
            self._wakeup.wait(min(left, RECHECK_INTERVAL))
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error

    def when_over(self, function: Callable[[], None]) -> None:
        """Call it at the end, in the thread of the attempt; here and now when that is over."""
        self._afterwards.append(function)
        if self.is_over:
            self._finish()

    def _run(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            self._error = error
        finally:
            self.is_over = True
            self._wakeup.wake()
            self._finish()

    def _finish(self) -> None:
        while True:
            try:
                function = self._afterwards.popleft()
            except IndexError:
                return
            function()
