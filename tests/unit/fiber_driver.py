"""A driver and bells whose I/O and sleep are suspension points of fibers."""

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
        self.home = driver.home()
        self.is_dead = False
        # How often the pool had been recycled when this was begun.
        self.recycles = 0
        # When it last answered.
        self.proved_at = 0.0
        self.in_statement = False
        # None: nobody can know without asking.
        self.in_transaction: bool | None = False

    def __del__(self) -> None:
        """A socket that is only forgotten counts on: the pool must close or drop it."""


class FiberBell:
    """Suspends its actor. It sleeps on when it is resumed before its time: see Actor.is_due."""

    def __init__(self, actor: Actor, number: int) -> None:
        self.actor = actor
        self.number = number
        self.rung = False
        self.rung_at = self.wakes_at = math.inf
        # Those before whom it was served.
        self.overtaken: list[Actor] = []
        self.is_turned_away = False

    def ring(self) -> None:
        self.overtaken = self.actor.world.ahead_of(self)
        self.rung, self.rung_at = True, self.actor.world.clock.now

    def wait(self, seconds: float) -> bool:
        world, deadline = self.actor.world, self.actor.deadline
        if seconds > 0 and not self.rung:
            self.wakes_at = world.clock.now + seconds
            assert deadline is None or self.wakes_at <= deadline + 1e-6, "it would sleep beyond its deadline"
            suspend("waiting")
        rung, self.rung = self.rung, False
        return rung


class FiberDriver(fakes.FakeDriver):
    """A connection counts from the moment when connecting begins, until its close has ended."""

    connection_class = Connection

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.connecting = 0
        self.found_dead: set[int] = set()
        self._bells = 0

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

    def home(self) -> object:
        actor = self.world.running
        return fakes.HERE if actor is None else actor.home

    def bell(self) -> Any:
        actor = self.world.running
        if actor is None:
            return super().bell()
        self._bells += 1
        # Whoever queues a second time during a checkout has not come later for that.
        actor.bell = FiberBell(actor, actor.bell.number if actor.bell else self._bells)
        actor.impatient = actor.deadline is not None and actor.deadline <= self.world.clock.now
        return actor.bell

    def alive(self, connection: Any) -> bool | None:
        if connection.looks is False:
            self.found_dead.add(connection.number)
            self.world.death_seen_at = self.world.clock.now
        return bool(connection.looks) if connection.looks is not None else None

    def close(self, connection: Any, linger: float) -> None:
        actor = self.world.running
        if actor is not None:
            if connection.home is not actor.home:
                raise Wrong(f"{connection} is closed in another hub")
            suspend(f"closing {'in the queue' if actor.bell else actor.phase}")
        super().close(connection, linger)
