"""Schedules that have gone wrong once, step by step. The world checks all invariants after each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_db_pooling.pool.slots import FRESH
from tests.unit.actors import Actor, Timeout
from tests.unit.fibers import GreenFiber
from tests.unit.world import World

MakeWorld = Callable[..., World]


@pytest.fixture
def make_world() -> Iterator[MakeWorld]:
    made: list[World] = []

    def make(**limits: Any) -> World:
        made.append(World(GreenFiber, hubs=2, **limits))
        return made[-1]

    yield make
    for world in made:
        world.close()


def go_on_to(point: str, world: World, actor: Actor) -> Actor:
    while actor.where != point:
        world.step(actor)
    return actor


def two_hubs(make_world: MakeWorld) -> tuple[World, Actor, Actor, Actor]:
    """A connection of the second hub is in use. Two callers of the first are opening, one more waits
    for its turn, and behind it waits one of the second hub.
    """
    world = make_world(size=4, max_outstanding=4)
    holder = go_on_to("holding", world, world.start("holder", affinity=1))
    for _ in range(2):
        assert world.start("opening").where == "connecting"
    first = world.start("first", affinity=0)
    second = world.start("second", affinity=1)
    assert (first.where, second.where) == ("waiting", "waiting")
    return world, holder, first, second


def test_a_connection_is_for_who_can_use_it_while_the_first_in_the_queue_cannot(
    make_world: MakeWorld,
) -> None:
    """The first in the queue has no use for a connection of another hub, and must not take its place
    yet, since two are opening: the connection was idle, while somebody of its hub waited behind.
    """
    world, holder, first, second = two_hubs(make_world)
    world.step(holder)
    assert (first.where, second.where) == ("waiting", "served")


def test_when_the_first_in_the_queue_gives_up_the_next_is_served(make_world: MakeWorld) -> None:
    """The place of the connection would have been the first one's, as soon as it may open. It gives up,
    and nobody told those behind it, who could use the connection, that it was theirs.
    """
    world, holder, first, second = two_hubs(make_world)
    world.step(holder)
    world.step(first, Timeout())
    go_on_to("holding", world, second)


def test_waiters_whose_connections_died_keep_their_order(make_world: MakeWorld) -> None:
    """Both were served, and before they woke the server went away. Each returned to the head of the
    queue: the later one overtook the earlier.
    """
    world = make_world(size=2, max_outstanding=2)
    holders = [go_on_to("holding", world, world.start("holder")) for _ in range(2)]
    first, second = world.start("first"), world.start("second")
    for holder in holders:
        world.step(holder)
    for connection in world.pool.connections():
        connection.is_dead, connection.looks = True, False
    world.pass_time(FRESH)
    for waiter in (first, second):
        go_on_to("closing in the queue", world, waiter)
    world.step(first)
    assert first.where == "connecting"
    assert second.is_queued
