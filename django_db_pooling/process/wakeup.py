"""What a caller sleeps on until another one wakes it: in native threads, and in gevent's greenlets."""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import Any, Protocol

from django_db_pooling.process import green


class Wakeup(Protocol):
    """Wakes one sleeper. A wakeup that comes before the wait is not lost."""

    def wake(self) -> None:
        """Callable from any thread and from finalizers; doesn't switch greenlets."""

    def wait(self, seconds: float) -> bool:
        """Sleep for so long at most. Whether it was woken; that is forgotten then."""


class ThreadWakeup:
    """For native threads."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):
            # Released: nobody has waited since it was woken last.
            self._lock.release()

    def wait(self, seconds: float) -> bool:
        if seconds <= 0:
            return self._lock.acquire(blocking=False)
        return self._lock.acquire(timeout=seconds)


class GreenletWakeup:
    """For one greenlet, which its own native thread or another one wakes.

    gevent's locks do that too, at three times the price, and before gevent 26.8 a release in
    another native thread may go unnoticed.
    """

    __slots__ = ("_hub", "_woken", "_sleeper")

    def __init__(self) -> None:
        self._hub = green.hub_of_this_thread()
        self._woken = False
        self._sleeper: Any = None

    def wake(self) -> None:
        self._woken = True
        sleeper = self._sleeper
        if sleeper is not None:
            loop = self._hub.loop
            if self._hub.thread_ident == green.original("_thread", "get_ident")():
                loop.run_callback(sleeper.switch, None)
            elif loop is not None:
                # None: its thread has ended.
                loop.run_callback_threadsafe(sleeper.switch, None)

    def wait(self, seconds: float) -> bool:
        if seconds > 0 and not self._woken:
            sleeper = self._sleeper = sys.modules["gevent.hub"].Waiter(self._hub)
            timer = self._hub.loop.timer(seconds)
            try:
                # Somebody in another native thread may have woken it before there was a sleeper.
                if not self._woken:
                    timer.start(sleeper.switch, None)
                    sleeper.get()
            finally:
                self._sleeper = None
                timer.stop()
                timer.close()
        if not self._woken:
            return False
        self._woken = False
        return True
