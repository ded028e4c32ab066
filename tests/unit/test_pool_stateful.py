"""Anything in any order: callers in fibers, interrupted at any point, and a pool that changes meanwhile."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from django_db_pooling.pool.limits import Limits
from tests.unit.actors import ORDERS, Actor, Kill, Timeout
from tests.unit.fakes import PASSED
from tests.unit.fiber_driver import Connection, Fault
from tests.unit.fibers import Fiber, GreenFiber, ThreadFiber
from tests.unit.world import World

HUBS, IDENTITIES = 2, 2
AN_AFFINITY = st.integers(0, HUBS * IDENTITIES - 1)
SOON = 0.6
TALKS_TO_THE_SERVER = ("connecting", "setting up", "checking", "executing", "rolling back", "closing")


@st.composite
def some_limits(draw: st.DrawFn) -> dict[str, Any]:
    size = draw(st.integers(1, 3))
    return {
        "size": size,
        "max_outstanding": draw(st.sampled_from([size, size, size + 1, size + 2, None])),
        "min_size": draw(st.integers(0, size)),
        "max_waiting": draw(st.sampled_from([None, None, None, 0, 2])),
        "connect_retry": draw(st.sampled_from([0.0, SOON, 5.0])),
        "max_age": 100.0,
        "idle_timeout": 50.0,
    }


class PoolMachine(RuleBasedStateMachine):
    """The invariants are checked by the world after each step of each rule."""

    kind: ClassVar[type[Fiber]] = GreenFiber

    @initialize(limits=some_limits())
    def begin(self, limits: dict[str, Any]) -> None:
        self.world = World(self.kind, HUBS, IDENTITIES, **limits)

    def actors(self, *points: str) -> list[Actor]:
        return [actor for actor in self.world.actors if not points or actor.where.startswith(points)]

    def due(self) -> list[Actor]:
        return [actor for actor in self.world.actors if actor.is_due]

    def connections(self) -> list[Connection]:
        return [connection for connection in self.world.pool.connections() if not connection.is_dead]

    # -- callers ----------------------------------------------------------------------------

    @rule(affinity=AN_AFFINITY, gives_up=st.sampled_from([False, False, False, True]), reopens=st.booleans())
    def somebody_comes(self, affinity: int, gives_up: bool, reopens: bool) -> None:
        self.world.start("patient", affinity=affinity, gives_up=gives_up, reopens=reopens)

    @rule(affinity=AN_AFFINITY, seconds=st.sampled_from([0.0, 0.1, SOON]))
    def somebody_comes_with_a_deadline(self, affinity: int, seconds: float) -> None:
        self.world.start("hurried", affinity=affinity, deadline=self.world.clock.now + seconds)

    @rule(affinity=AN_AFFINITY)
    def somebody_comes_who_never_waits(self, affinity: int) -> None:
        actor = self.world.start("impatient", affinity=affinity, deadline=PASSED)
        assert actor.where != "waiting"

    @precondition(due)
    @rule(data=st.data())
    def somebody_goes_on(self, data: st.DataObject) -> None:
        self.world.step(data.draw(st.sampled_from(self.due())))

    @rule()
    def all_go_on_until_they_sleep_or_hold_something(self) -> None:
        while eager := [actor for actor in self.due() if actor.where != "holding"]:
            self.world.step(eager[0])

    @precondition(lambda self: self.actors("holding"))
    @rule(data=st.data(), order=st.sampled_from(ORDERS))
    def somebody_does_something_with_a_connection(self, data: st.DataObject, order: str) -> None:
        actor = data.draw(st.sampled_from(self.actors("holding")))
        actor.order = order
        self.world.step(actor)

    @precondition(actors)
    @rule(data=st.data(), error=st.sampled_from([Timeout, Kill]))
    def somebody_is_interrupted(self, data: st.DataObject, error: type[BaseException]) -> None:
        self.world.step(data.draw(st.sampled_from(self.actors())), error())

    @precondition(lambda self: self.actors(*TALKS_TO_THE_SERVER))
    @rule(data=st.data())
    def a_conversation_with_the_server_fails(self, data: st.DataObject) -> None:
        self.world.step(data.draw(st.sampled_from(self.actors(*TALKS_TO_THE_SERVER))), Fault())

    # -- the world --------------------------------------------------------------------------

    @precondition(connections)
    @rule(data=st.data(), looks=st.sampled_from([False, False, None]))
    def a_connection_dies(self, data: st.DataObject, looks: bool | None) -> None:
        connection = data.draw(st.sampled_from(self.connections()))
        connection.is_dead, connection.looks = True, looks

    @precondition(connections)
    @rule(data=st.data())
    def a_connection_looks_odd(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.connections())).looks = None

    @precondition(lambda self: not self.world.is_away)
    @rule(connections_die=st.booleans())
    def the_server_goes(self, connections_die: bool) -> None:
        self.world.lose_server(connections_die)

    @precondition(lambda self: self.world.is_away)
    @rule()
    def the_server_returns(self) -> None:
        self.world.is_away = False

    @precondition(lambda self: self.world.garbage)
    @rule()
    def dropped_slots_are_collected(self) -> None:
        self.world.collect_garbage()

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.5, 11.0, 51.0, 101.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(affinity=AN_AFFINITY)
    def it_is_looked_after(self, affinity: int) -> None:
        self.world.start("housekeeper", "maintain", affinity)

    @rule(affinity=AN_AFFINITY)
    def the_minimum_is_filled_up(self, affinity: int) -> None:
        self.world.start("housekeeper", "fill", affinity)

    @rule(affinity=AN_AFFINITY, limits=some_limits())
    def it_is_resized(self, affinity: int, limits: dict[str, Any]) -> None:
        self.world.start("operator", "resize", affinity, limits=Limits(**limits))

    @rule(affinity=AN_AFFINITY)
    def it_is_recycled(self, affinity: int) -> None:
        self.world.start("operator", "recycle", affinity)

    @rule(affinity=AN_AFFINITY)
    def an_identity_is_given_up(self, affinity: int) -> None:
        self.world.start("operator", "forget", affinity)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            # After a failure that one is told, and not what follows from it.
            if self.world.is_sound:
                self.world.run_to_the_end()
                self.world.start("operator", "resize", limits=Limits(size=1, max_outstanding=4))
                self.world.run_to_the_end()
                self.world.nothing_is_lost()
        finally:
            self.world.close()


class ThreadedPoolMachine(PoolMachine):
    kind = ThreadFiber


def case(machine: type[PoolMachine], examples: int) -> Any:
    case = machine.TestCase
    case.settings = settings(
        max_examples=examples,
        stateful_step_count=50,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
    )
    # Looking for the shortest failure takes up to five minutes.
    case.pytestmark = [pytest.mark.timeout(400)]
    return case


TestWithGreenlets = case(PoolMachine, 200)
TestWithThreads = case(ThreadedPoolMachine, 40)
