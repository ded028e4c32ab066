"""A driver and sleepers whose I/O and sleep are suspension points of fibers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from django_db_pooling.process.wakeup import RECHECK_INTERVAL, ThreadSleepers
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

    def __init__(self, driver: Any, number: int) -> None:
        super().__init__(driver, number)
        self.hub = driver.hub()
        actor = driver.world.running
        self.affinity = self.hub if actor is None else actor.affinity
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
        self.waiter: Any = None

    def wake(self, sleeper: Any) -> None:
        self.waiter = sleeper
        if not isinstance(sleeper.outcome, Exception):
            self.overtaken = self.actor.world.ahead_of(self)
        self.woken, self.woken_at = True, self.actor.world.clock.now

    def sleep(self, sleeper: Any, seconds: float) -> None:
        world, deadline = self.actor.world, self.actor.deadline
        if seconds > 0 and sleeper.outcome is None:
            self.wakes_at = world.clock.now + min(seconds, RECHECK_INTERVAL)
            assert deadline is None or self.wakes_at <= deadline + 1e-6, "it would sleep beyond its deadline"
            suspend("waiting")
        self.woken = False


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

    def hub(self) -> object:
        actor = self.world.running
        return fakes.HERE if actor is None else actor.hub

    def place(self) -> Any:
        """Among whom the one who is running sleeps: it alone."""
        actor = self.world.running
        if actor is None:
            return ThreadSleepers()
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
            if connection.hub is not actor.hub:
                raise Wrong(f"{connection} is closed in another hub")
            actor.closing = connection
            try:
                suspend(f"closing {'in the queue' if actor.wakeup else actor.phase}")
            finally:
                actor.closing = None
        super().close(connection, close_wait)
