"""Each step, each way in which it may come out, each moment in which somebody may be interrupted.

In fibers, in a pool with one place for which somebody waits. On real servers, where sessions are
reset, too: tests/behaviour/test_combinations.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.actors import Actor, Kill, Timeout
from tests.unit.fakes import PASSED
from tests.unit.fiber_driver import Away, Fault
from tests.unit.fibers import Fiber, GreenFiber, ThreadFiber
from tests.unit.world import World

# Where each step is suspended first.
POINTS = {"open": "connecting", "check": "checking", "close": "closing at the end"}
ERRORS = {"error": Fault, "away": Away}
SECONDS, SLICE = 10.0, 0.5


@pytest.fixture(params=[GreenFiber, ThreadFiber])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    kind: type[Fiber] = request.param
    made = World(kind, size=1, max_outstanding=1, connect_retry=2.0)
    yield made
    made.close()


def begin(world: World, step: str) -> Actor:
    """Somebody is at this step, with ten seconds for its checkout."""
    if step == "check":
        world.start("the last one")
        world.run_to_the_end()
        [connection] = world.pool.connections()
        connection.looks = None
    actor = world.start("the one", deadline=world.clock.now + SECONDS)
    if step == "close":
        while actor.where != "holding":
            world.step(actor)
        actor.order = "close"
        world.step(actor)
    assert actor.where == POINTS[step]
    return actor


def pass_time(world: World, seconds: float, but: Actor) -> None:
    """Others look around meanwhile."""
    until = world.clock.now + seconds
    while world.clock.now < until:
        world.pass_time(SLICE)
        for other in [other for other in world.actors if other is not but and other.is_due]:
            world.step(other)


def end(world: World, step: str, outcome: str, actor: Actor) -> None:
    """The step comes to this outcome."""
    if outcome in ERRORS:
        world.is_away = outcome == "away"
        world.step(actor, ERRORS[outcome]())
    elif outcome == "never":
        # Drivers give up when they have been told to.
        pass_time(world, SECONDS, actor)
        world.step(actor, Fault())
    else:
        world.step(actor)


@pytest.mark.parametrize("interruption", [Timeout, Kill])
@pytest.mark.parametrize("cancelled", [None, "waiting", "running"])
@pytest.mark.parametrize("outcome", ["ok", "error", "away", "slow", "never"])
@pytest.mark.parametrize("step", POINTS)
def test_slots_are_exact(
    step: str, outcome: str, cancelled: str | None, interruption: type[BaseException], world: World
) -> None:
    actor = begin(world, step)
    waiter = world.start("the next one")
    assert waiter.where == "waiting"
    if outcome == "slow":
        pass_time(world, SECONDS / 2, actor)
    if cancelled == "waiting":
        world.step(waiter, interruption())
        assert waiter.fiber.is_over
    if cancelled == "running":
        if outcome == "away" and step == "open":
            end(world, step, outcome, actor)
            assert actor.where == "pausing"
        elif outcome == "never":
            pass_time(world, SECONDS - SLICE, actor)
        world.step(actor, interruption())
        assert actor.fiber.is_over
        assert waiter.where == "served"
    else:
        end(world, step, outcome, actor)
    world.run_to_the_end()
    world.nothing_is_lost()


@pytest.mark.parametrize("outcome", ERRORS)
def test_who_may_not_wait_leaves_exact_slots_too(outcome: str, world: World) -> None:
    actor = world.start("impatient", deadline=PASSED)
    end(world, "open", outcome, actor)
    assert actor.fiber.is_over
    assert len(world.pool) == 0
    world.nothing_is_lost()
