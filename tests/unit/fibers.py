"""Fibers: functions that stop at named points and go on when a test says so, one at a time."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

from greenlet import greenlet


class Wrong(BaseException):
    """Fails a test: an AssertionError could be taken for an error of a connection, and be swallowed."""


class Fiber(ABC):
    """Runs ``function`` from one ``suspend`` to the next, whenever ``go_on`` is called."""

    # At most one runs at any time, whatever it is made of: none of these needs a lock.
    running: ClassVar[Fiber | None] = None
    unbroken: ClassVar[int] = 0

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._failure: BaseException | None = None
        # Where it has stopped; None before it begins and after its end.
        self.point: str | None = None
        self.is_over = False

    def go_on(self, error: BaseException | None = None) -> None:
        """Run on, from an exception at its present point if one is given. Raises what the function does."""
        assert Fiber.running is None, "a fiber can't drive fibers"
        assert not self.is_over, "it has ended"
        assert self.point or error is None, "it has not begun: nothing can be raised in it"
        Fiber.running = self
        try:
            self._switch_in(error)
        finally:
            Fiber.running = None
            if error is not None:
                # Its frames would keep alive what the function has let go of.
                error.__traceback__ = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as failure:
            self._failure = failure
        self.point = None
        self.is_over = True

    def stop_at(self, point: str) -> None:
        if Fiber.unbroken:
            raise Wrong(f"suspended at {point!r} inside of what never switches")
        self.point = point
        self._switch_out()

    @abstractmethod
    def _switch_in(self, error: BaseException | None) -> None:
        """Called by the driver: returns when the fiber has stopped."""

    @abstractmethod
    def _switch_out(self) -> None:
        """Called in the fiber: returns, or raises, when it is to go on."""


class GreenFiber(Fiber):
    """A bare greenlet: no hub, no loop."""

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__(function)
        self._greenlet = greenlet(self._run)

    def _switch_in(self, error: BaseException | None) -> None:
        if error is None:
            self._greenlet.switch()
        else:
            self._greenlet.throw(error)

    def _switch_out(self) -> None:
        self._greenlet.parent.switch()


class ThreadFiber(Fiber):
    """A native thread that runs while it has the baton."""

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__(function)
        self._error: BaseException | None = None
        self._baton, self._returned = threading.Lock(), threading.Lock()
        self._baton.acquire()
        self._returned.acquire()
        self._thread = threading.Thread(target=self._race, daemon=True)

    def _race(self) -> None:
        self._run()
        self._returned.release()

    def _switch_in(self, error: BaseException | None) -> None:
        self._error = error
        if self.point is None:
            self._thread.start()
        else:
            self._baton.release()
        self._returned.acquire()
        if self.is_over:
            self._thread.join()

    def _switch_out(self) -> None:
        self._returned.release()
        self._baton.acquire()
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error


def suspend(point: str) -> None:
    """Stop here until the fiber is told to go on. Whoever is in no fiber goes on at once."""
    if Fiber.running is not None:
        Fiber.running.stop_at(point)


@contextmanager
def never_switching() -> Iterator[None]:
    """Suspending inside is an error."""
    Fiber.unbroken += 1
    try:
        yield
    finally:
        Fiber.unbroken -= 1
