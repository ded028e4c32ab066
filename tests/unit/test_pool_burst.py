"""A burst of callers on a quiet pool: most are served by what comes back before anything can be opened."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.fibers import GreenFiber, ThreadFiber
from tests.unit.world import World

AT_REST, BURST = 5, 50
CONNECT, REQUEST = 0.150, 0.002


@pytest.fixture(params=[GreenFiber, ThreadFiber])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(request.param, size=AT_REST, max_outstanding=BURST)
    yield world
    world.close()


def run_in_time(world: World, seconds: dict[str, float]) -> None:
    """Everybody goes on when the time has passed that its present point takes."""
    since: dict[tuple[str, str], float] = {}
    while world.actors:
        for actor in world.actors:
            since.setdefault((actor.name, actor.where), world.clock.now)
        due = {
            actor: actor.wakeup.wakes_at
            if actor.where == "waiting" and actor.wakeup is not None
            else since[actor.name, actor.where] + seconds.get(actor.where, 0.0)
            for actor in world.actors
        }
        actor = min(world.actors, key=lambda actor: due[actor])
        world.pass_time(max(0.0, due[actor] - world.clock.now))
        world.step(actor)


def open_idle(world: World, count: int) -> None:
    """Each caller opens one, since nobody gives back before all have theirs."""
    callers = []
    for _ in range(count):
        callers.append(world.start("early"))
        while callers[-1].where != "holding":
            world.step(callers[-1])
    world.run_until_all_sleep()
    assert world.pool.snapshot().idle == count


def test_a_burst_of_fifty_on_five_idle_connections_opens_two_more(world: World) -> None:
    """Connecting takes longer than all fifty requests. Two callers, the most that open at a time, have
    begun it by then and see it through; everybody else made do with what came back.
    """
    open_idle(world, AT_REST)
    began = world.clock.now
    for _ in range(BURST):
        world.start("burst")
    stats = world.pool.snapshot()
    assert (stats.in_use, stats.opening, stats.waiting) == (5, 2, 43)
    run_in_time(world, {"connecting": CONNECT, "holding": REQUEST})
    stats = world.pool.snapshot()
    assert stats.opened == stats.idle == AT_REST + 2
    assert world.clock.now - began == pytest.approx(CONNECT + REQUEST)
    assert stats.longest_wait_seconds == pytest.approx(9 * REQUEST)


def test_what_a_burst_has_opened_is_closed_when_it_stays_unused(world: World) -> None:
    open_idle(world, AT_REST + 2)
    world.pass_time(11.0)
    world.start("housekeeper", "maintain")
    world.run_until_all_sleep()
    assert world.pool.snapshot().idle == AT_REST


def test_when_requests_are_slow_a_burst_opens_more(world: World) -> None:
    """Nothing comes back for two seconds. Meanwhile two connections open every 150 ms, without a pause."""
    open_idle(world, AT_REST)
    for _ in range(BURST):
        world.start("burst")
    run_in_time(world, {"connecting": CONNECT, "holding": 2.0})
    opened_in_two_seconds = 2 * int(2.0 / CONNECT)
    stats = world.pool.snapshot()
    assert AT_REST + opened_in_two_seconds <= stats.opened < BURST
    # Alone, the first five would have kept the last caller waiting for 18 seconds.
    assert stats.longest_wait_seconds < 2.5
