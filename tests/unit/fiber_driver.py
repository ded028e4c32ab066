"""A driver and wakeups whose I/O and sleep are suspension points of fibers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tests.unit import fakes
from tests.unit.fibers import Wrong, suspend

if TYPE_CHECKING:
    from tests.unit.actors import Actor
    from tests.unit.world import World


class Fault(Exception):
    """As a driver raises."""


class Away(Fault):
    """As a driver raises when no server is there."""


class Connection(fakes.Connection):
    """One that knows where it is used, and what its last user left in it."""

    def __init__(self, driver: fakes.FakeDriver, number: int) -> None:
        super().__init__(driver, number)
        self.affinity = driver.affinity()
        self.is_dead = False
        # How often the pool had been recycled when this was begun.
        self.recycles = 0
        # When it last answered.
        self.validated_at = 0.0
        self.in_statement = False
        # None: nobody can know without asking.
        self.in_transaction: bool | None = False

    def __del__(self) -> None:
        """A socket that is only forgotten counts on: the pool must close or drop it."""


class FiberWakeup:
    """Suspends its actor. It sleeps on when it is resumed before its time: see Actor.is_due."""

    def __init__(self, actor: Actor, number: int) -> None:
        self.actor = actor
        self.number = number
        self.woken = False
        self.woken_at = self.wakes_at = math.inf
        # Those before whom it was served.
        self.overtaken: list[Actor] = []
        self.is_turned_away = False

    def wake(self) -> None:
        self.overtaken = self.actor.world.ahead_of(self)
        self.woken, self.woken_at = True, self.actor.world.clock.now

    def wait(self, seconds: float) -> bool:
        world, deadline = self.actor.world, self.actor.deadline
        if seconds > 0 and not self.woken:
            self.wakes_at = world.clock.now + seconds
            assert deadline is None or self.wakes_at <= deadline + 1e-6, "it would sleep beyond its deadline"
            suspend("waiting")
        woken, self.woken = self.woken, False
        return woken


class FiberDriver(fakes.FakeDriver):
    """A connection counts from the moment when connecting begins, until its close has ended."""

    connection_class = Connection

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.connecting = 0
        self.found_broken: set[int] = set()
        self._wakeups = 0

    def connect(self) -> Any:
        recycles = self.world.recycles
        self.connecting += 1
        try:
            suspend("connecting")
            if self.world.is_away:
                raise Away
        finally:
            self.connecting -= 1
        connection = super().connect()
        connection.recycles = recycles
        return connection

    @property
    def sockets(self) -> int:
        return len(self.open) + self.connecting

    def affinity(self) -> object:
        actor = self.world.running
        return fakes.HERE if actor is None else actor.affinity

    def wakeup(self) -> Any:
        actor = self.world.running
        if actor is None:
            return super().wakeup()
        self._wakeups += 1
        # Whoever queues a second time during a checkout has not come later for that.
        actor.wakeup = FiberWakeup(actor, actor.wakeup.number if actor.wakeup else self._wakeups)
        actor.impatient = actor.deadline is not None and actor.deadline <= self.world.clock.now
        return actor.wakeup

    def alive(self, connection: Any) -> bool | None:
        if connection.looks is False:
            self.found_broken.add(connection.number)
            self.world.suspect_before = self.world.clock.now
        return bool(connection.looks) if connection.looks is not None else None

    def close(self, connection: Any, close_wait: float) -> None:
        actor = self.world.running
        if actor is not None:
            if connection.affinity is not actor.affinity:
                raise Wrong(f"{connection} is closed in another hub")
            suspend(f"closing {'in the queue' if actor.wakeup else actor.phase}")
        super().close(connection, close_wait)
