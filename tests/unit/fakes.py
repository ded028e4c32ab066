"""A driver without a server, callers in threads, and a clock that stands still: no Django in here."""

from __future__ import annotations

import dis
import functools
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType
from typing import Any, ClassVar
from unittest import mock

from django_db_pooling.pool import (
    Pool,
    health,
    maintenance,
    openings,
    pausing,
    queue,
    refusals,
    resting,
    shedding,
    slots,
)
from django_db_pooling.pool import pool as pool_module
from django_db_pooling.pool.limits import Limits
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.slots import Slots
from django_db_pooling.process import green

# Whatever should happen at once has this many seconds before a test gives up.
SOON = 10.0
# A deadline that is over: the caller never waits.
PASSED = 0.0
HERE = object()
# The pool's modules that read the clock.
TIMED = (pool_module, slots, openings, pausing, queue, refusals, resting, shedding, health, maintenance)


def until(condition: Callable[[], object], seconds: float = SOON) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.0005)


class Connection:
    """What a driver would give: open until it is closed, dropped, or its last reference is gone."""

    def __init__(self, driver: FakeDriver, number: int) -> None:
        self.driver = driver
        self.number = number
        self.looks: bool | None = True
        self.user: object = None
        self.executing = False

    def __repr__(self) -> str:
        return f"<connection {self.number}>"

    def __del__(self) -> None:
        self.driver.open.pop(self.number, None)


class FakeDriver:
    """Counts its connections, and fails where it is told to."""

    connection_class: type[Connection] = Connection
    can_end = True
    ends_elsewhere = False

    def __init__(self) -> None:
        self.here: object = HERE
        self.used_looks: bool | None = None
        self.open: dict[int, int] = {}
        self.peak = 0
        self.made = 0
        self.closed: list[tuple[int, float]] = []
        self.dropped: list[int] = []
        self.close_error: BaseException | None = None
        self.drop_error: BaseException | None = None
        self.ended: list[list[int]] = []
        self.at_end: Callable[[float], object] = lambda seconds: None
        self.at_close: Callable[[], object] = lambda: None
        self.at_drop: Callable[[], object] = lambda: None
        # Of native threads and of greenlets, where a patched one could switch, and be left locked by a kill.
        self._lock = green.original("_thread", "RLock")()

    def connect(self) -> Connection:
        with self._lock:
            self.made += 1
            connection = self.connection_class(self, self.made)
            self.open[self.made] = self.made
            self.peak = max(self.peak, len(self.open))
        return connection

    def hub(self) -> object:
        return self.here

    def alive(self, connection: Connection) -> bool | None:
        # In the middle of a query there is something to be read.
        return connection.looks if connection.user is None else self.used_looks

    def is_executing(self, connection: Connection, error: BaseException | None) -> bool:
        return connection.executing

    def end(self, connections: list[Connection], seconds: float) -> None:
        self.ended.append([connection.number for connection in connections])
        self.at_end(seconds)

    def drop(self, connection: Connection) -> None:
        self.at_drop()
        with self._lock:
            if self.open.pop(connection.number, None):
                self.dropped.append(connection.number)
        if self.drop_error is not None:
            raise self.drop_error

    def close(self, connection: Connection, close_wait: float) -> None:
        self.at_close()
        with self._lock:
            self.open.pop(connection.number, None)
            self.closed.append((connection.number, close_wait))
        if self.close_error is not None:
            raise self.close_error


class FakeSlots(Slots):
    def checkin(self, slot: Slot) -> None:
        if slot.connection is not None:
            slot.connection.user = None
        super().checkin(slot)


class FakePool(Pool):
    """A pool with its fake driver, and what a holder does with a slot."""

    driver: FakeDriver
    # What it consists of, by the name in its module.
    parts: ClassVar[dict[str, type[Any]]] = {"Slots": FakeSlots}

    def __init__(self, driver: FakeDriver | None = None, **limits: Any) -> None:
        with mock.patch.multiple(pool_module, **self.parts):
            super().__init__("default", Limits(**limits), driver or FakeDriver())

    def take(self, deadline: float | None = None, holder: object = "somebody") -> Slot:
        slot = self.checkout(deadline, holder)
        if slot.connection is None:
            self.fill(slot)
        slot.connection.user = holder
        return slot

    def take_now(self, holder: object = "somebody") -> Slot:
        return self.take(PASSED, holder)

    def fill(self, slot: Slot) -> Slot:
        slot.connection = self.driver.connect()
        self.opened(slot)
        return slot

    def give(self, slot: Slot) -> None:
        """As a wrapper does at the end of its scope."""
        if self.wants(slot):
            self.checkin(slot)
        else:
            self.close(slot)

    def open_idle(self, count: int) -> list[Connection]:
        """Connections that are idle, the one opened first is the oldest."""
        slots = [self.take_now() for _ in range(count)]
        for slot in slots:
            self.give(slot)
        return [slot.connection for slot in slots]

    @property
    def idle_connections(self) -> list[Connection]:
        """Newest last."""
        return [slot.connection for slot in self.slots.idle()]

    @property
    def waiting(self) -> int:
        return self.snapshot().waiting


class Caller(threading.Thread):
    """Runs a function in a thread of its own; ``result()`` is what it returns or raises."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self._function, self._args = function, args
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._function(*self._args)
        except BaseException as error:
            self._error = error
            # Frames would keep alive what the function held.
            error.__traceback__ = None

    def result(self, seconds: float = SOON) -> Any:
        self.join(seconds)
        assert not self.is_alive(), "the caller is still at it"
        error, self._error = self._error, None
        result, self._result = self._result, None
        if error is not None:
            raise error
        return result


def queue_up(pool: FakePool, count: int, function: Callable[..., Any] | None = None) -> list[Caller]:
    """Callers that wait, in this order."""
    callers = []
    for number in range(count):
        before = pool.waiting
        callers.append(Caller(function or pool.checkout, None, f"caller {number}"))
        until(lambda before=before: pool.waiting == before + 1)  # type: ignore[misc]
    return callers


class Clock:
    """Stands in for the module ``time`` in the pool's modules: goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Interrupt(BaseException):
    """As a signal handler or gevent injects them."""


@functools.cache
def _bytecode(code: CodeType) -> bytes:
    return code.co_code


def interrupted_at(point: int, packages: str, function: Callable[[], object]) -> bool:
    """Call a function and raise Interrupt in this thread at its n-th chance; False: it has fewer.

    The interpreter looks for signals where a function begins, after a call and when a loop goes
    round, but not between a call that fails and what handles that. In finalizers it does, too, but what is
    raised there goes nowhere.
    """
    chances = 0
    last: dict[int, str] = {}

    def chance(frame: Any) -> None:
        nonlocal chances
        outer = frame
        while outer is not None:
            if outer.f_code.co_name == "__del__":
                return
            outer = outer.f_back
        if chances == point:
            chances += 1
            sys.settrace(None)
            raise Interrupt
        chances += 1

    def local(frame: Any, event: str, _: Any) -> Any:
        if event == "opcode":
            name = dis.opname[_bytecode(frame.f_code)[frame.f_lasti]]
            before, last[id(frame)] = last.get(id(frame), ""), name
            if before.startswith("CALL") or name.startswith("JUMP_BACKWARD"):
                chance(frame)
        elif event == "exception":
            last.pop(id(frame), None)
        return local

    def trace(frame: Any, event: str, _: Any) -> Any:
        if packages not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        last.pop(id(frame), None)
        chance(frame)
        return local

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except Interrupt as interrupt:
        interrupt.__traceback__ = None
    finally:
        sys.settrace(before)
    return chances > point


class StrikingLimits:
    """Limits that call a function whenever the pool looks at its cap: another thread at that moment."""

    def __init__(self, pool: FakePool, strike: Callable[[], object]) -> None:
        self._limits, self._strike = pool.limits, strike

    def __getattr__(self, name: str) -> Any:
        if name == "max_outstanding":
            self._strike()
        return getattr(self._limits, name)
