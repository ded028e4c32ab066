"""One pool and one cap for connections of several hubs and identities, which not everybody can use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from django_db_pooling.pool import CheckoutTimeout, ServerAway
from django_db_pooling.pool.resting import MIN_REST
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.waiter import Waiter
from tests.unit.fakes import HERE, PASSED, Caller, Clock, FakePool, Interrupt, queue_up

pytestmark = pytest.mark.usefixtures("no_second_look")

ALICE, BOB = object(), object()


def take(pool: FakePool, identity: object, deadline: float | None = PASSED) -> Slot:
    """In the hub of the driver, with an affinity that is equal to that of others and not the same object."""
    slot = pool.checkout(deadline, "somebody", None, (pool.driver.here, identity))
    return slot if slot.connection is not None else pool.fill(slot)


def idle(pool: FakePool, clock: Clock, *identities: object) -> list[Any]:
    """Connections of these identities, the first one is unused for longest."""
    slots = [take(pool, identity) for identity in identities]
    for slot in slots:
        clock.now += 1
        pool.give(slot)
    return [slot.connection for slot in slots]


def wait_for(pool: FakePool, identity: object) -> Caller:
    (caller,) = queue_up(pool, 1, lambda *_: take(pool, identity, None))
    return caller


# -- whose connection it is ------------------------------------------------------------------------


def test_an_equal_affinity_fits() -> None:
    pool = FakePool()
    slot = take(pool, ALICE)
    pool.give(slot)
    assert take(pool, ALICE) is slot
    assert pool.driver.made == 1


@pytest.mark.parametrize("other", [(HERE, BOB), (object(), ALICE)])
def test_who_differs_in_hub_or_identity_gets_another_one(other: tuple[object, object]) -> None:
    pool = FakePool()
    pool.give(take(pool, ALICE))
    pool.driver.here, identity = other
    assert take(pool, identity).connection.number == 2


def test_the_hub_is_asked_for_only_where_a_connection_is_opened() -> None:
    pool = FakePool()
    asked: list[None] = []

    def hub() -> object:
        asked.append(None)
        return HERE

    pool.driver.hub = hub  # type: ignore[method-assign]
    slot = take(pool, ALICE)
    assert (len(asked), slot.hub) == (1, HERE)
    pool.give(slot)
    pool.give(take(pool, ALICE))
    assert len(asked) == 1


def test_the_affinities_of_a_pool_are_those_of_all_its_slots(clock: Clock) -> None:
    pool = FakePool()
    idle(pool, clock, ALICE)
    bare = pool.checkout(PASSED, "somebody", None, (HERE, BOB))
    assert {slot.affinity for slot in pool.slots.all()} == {(HERE, ALICE), (HERE, BOB)}
    pool.discard(bare)
    assert {slot.affinity for slot in pool.slots.all()} == {(HERE, ALICE)}


# -- giving way ----------------------------------------------------------------------------------


def test_the_cap_is_one_for_all() -> None:
    pool = FakePool(size=2, max_outstanding=2)
    held = [take(pool, ALICE), take(pool, BOB)]
    for identity in ALICE, BOB, object():
        with pytest.raises(CheckoutTimeout):
            take(pool, identity)
    assert len(pool) == len(held) == 2


def test_below_the_cap_nobody_gives_way(clock: Clock) -> None:
    pool = FakePool(size=3, max_outstanding=3)
    idle(pool, clock, ALICE, ALICE)
    held = take(pool, BOB)
    assert pool.driver.closed == pool.driver.dropped == []
    assert held.connection is not None


def test_at_the_cap_the_one_that_was_unused_longest_gives_way(clock: Clock) -> None:
    pool = FakePool(size=3, max_outstanding=3)
    connections = idle(pool, clock, ALICE, BOB, ALICE)
    # One that lay in somebody's hands for a moment is on top of the stack, and no younger for that.
    oldest = pool.slots.idle()[0]
    assert pool.slots.claim(oldest)
    pool.slots.put_back(oldest)
    held = [take(pool, object())]
    assert [number for number, _ in pool.driver.closed] == [connections[0].number]
    held.append(take(pool, object()))
    assert [number for number, _ in pool.driver.closed] == [connections[0].number, connections[1].number]
    assert len(pool.driver.open) == 3
    assert pool.snapshot().closed_by_reason["surplus"] == 2


def test_what_gives_way_is_closed_in_its_own_hub_and_dropped_elsewhere(clock: Clock) -> None:
    pool = FakePool(size=2, max_outstanding=2)
    here, elsewhere = idle(pool, clock, ALICE, ALICE)
    held = [take(pool, BOB)]
    assert [number for number, _ in pool.driver.closed] == [here.number]
    pool.driver.here = object()
    held.append(take(pool, BOB))
    assert [number for number, _ in pool.driver.closed] == [here.number]
    assert pool.driver.dropped == [elsewhere.number]
    assert len(pool) == len(held)


def test_a_session_at_rest_gives_way_after_idle_ones_and_when_it_has_rested(clock: Clock) -> None:
    pool = FakePool(size=2, max_outstanding=2)
    resting, other = take(pool, ALICE), take(pool, ALICE)
    rest = pool.rest(resting)
    clock.now += 2 * MIN_REST
    pool.give(other)
    numbers = [other.connection.number, resting.connection.number]
    held = [take(pool, BOB)]
    assert [number for number, _ in pool.driver.closed] == numbers[:1]
    held.append(take(pool, BOB))
    assert [number for number, _ in pool.driver.closed] == numbers
    assert pool.resume(rest) is None
    assert len(pool) == len(held)


def test_a_session_that_has_just_come_to_rest_does_not_give_way(clock: Clock) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    rest = pool.rest(take(pool, ALICE))
    with pytest.raises(CheckoutTimeout):
        take(pool, BOB)
    assert pool.resume(rest) is not None


def test_who_is_interrupted_while_it_closes_what_gives_way_frees_the_place(clock: Clock) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    idle(pool, clock, ALICE)
    pool.driver.close_error = Interrupt()
    with pytest.raises(Interrupt):
        take(pool, BOB)
    assert (len(pool), len(pool.driver.open), pool.snapshot().opening) == (0, 0, 0)


def test_what_would_give_way_stays_when_the_waiter_gives_up_that_instant(clock: Clock) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    (connection,) = idle(pool, clock, ALICE)
    find = pool.queue._slot_for

    def give_up(waiter: Waiter) -> Slot | None:
        slot = find(waiter)
        pool.queue.waiters.clear()
        return slot

    with mock.patch.object(pool.queue, "_slot_for", give_up), pytest.raises(CheckoutTimeout):
        take(pool, BOB)
    assert pool.idle_connections == [connection]
    assert pool.snapshot().opening == 0


def test_who_waits_for_its_turn_to_take_the_place_of_another_does_not_count_for_max_waiting(
    clock: Clock,
) -> None:
    pool = FakePool(size=5, max_outstanding=5, max_waiting=0)
    idle(pool, clock, ALICE, ALICE, ALICE)
    opening = [pool.checkout(PASSED, "somebody", None, (HERE, BOB)) for _ in range(2)]
    waiters = [wait_for(pool, BOB) for _ in range(3)]
    with pytest.raises(CheckoutTimeout, match="MAX_WAITING"):
        take(pool, BOB, None)
    assert all(waiter.is_alive() for waiter in waiters)
    served = [pool.fill(slot) for slot in opening]
    served += [waiter.result() for waiter in waiters]
    assert len(pool) == len(served) == 5


def test_while_two_are_opening_nobody_gives_way_to_a_third(clock: Clock) -> None:
    pool = FakePool(size=4, max_outstanding=4)
    idle(pool, clock, ALICE, ALICE)
    opening = [pool.checkout(PASSED, "somebody", None, (HERE, BOB)) for _ in range(2)]
    third = wait_for(pool, BOB)
    assert (pool.snapshot().idle, pool.snapshot().opening) == (2, 2)
    pool.fill(opening[0])
    served = third.result()
    assert served.connection is not None
    assert (pool.snapshot().idle, len(pool)) == (1, 4)


# -- handing over ----------------------------------------------------------------------------------


def test_what_comes_back_is_not_for_a_waiter_of_another_affinity_behind_whom_one_fits() -> None:
    """Two are opening, so the first in the queue must not open in the place of what comes back."""
    pool = FakePool(size=3, max_outstanding=3)
    slot = take(pool, ALICE)
    opening = [pool.checkout(PASSED, "somebody", None, (HERE, BOB)) for _ in range(2)]
    bob, alice = wait_for(pool, BOB), wait_for(pool, ALICE)
    pool.give(slot)
    assert alice.result() is slot
    assert bob.is_alive()
    pool.give(pool.fill(opening.pop()))
    assert bob.result().affinity == (HERE, BOB)


def test_what_comes_back_gives_way_to_the_first_in_the_queue() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = take(pool, ALICE)
    bob = wait_for(pool, BOB)
    pool.give(slot)
    assert bob.result().affinity == (HERE, BOB)
    assert len(pool) == len(pool.driver.open) == 1


def test_what_comes_back_passes_neither_over_the_stack_nor_through_the_matcher() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = take(pool, ALICE)
    alice = wait_for(pool, ALICE)
    with mock.patch.multiple(pool.slots, _idle=None, on_freed=None):
        pool.give(slot)
    assert alice.result() is slot


def looks(pool: FakePool) -> list[Any]:
    """The connections that it is asked about whether they are alive."""
    asked: list[Any] = []
    alive = pool.driver.alive

    def look(connection: Any) -> bool | None:
        asked.append(connection)
        return alive(connection)

    pool.driver.alive = look  # type: ignore[method-assign]
    return asked


@pytest.mark.parametrize(("held_for", "count"), [(0.9, 0), (1.1, 1)])
def test_what_was_in_use_a_moment_ago_needs_no_look(clock: Clock, held_for: float, count: int) -> None:
    """After a long time in somebody's hands, without a statement maybe, it does."""
    pool = FakePool(size=1, max_outstanding=1)
    slot = take(pool, ALICE)
    alice = wait_for(pool, ALICE)
    asked = looks(pool)
    clock.now += held_for
    pool.give(slot)
    assert alice.result() is slot
    assert len(asked) == count


@pytest.mark.parametrize(
    "happens", [lambda pool, clock: pool.recycle(), lambda pool, clock: setattr(clock, "now", clock.now + 2)]
)
def test_what_happens_on_its_way_is_seen(clock: Clock, happens: Callable[[FakePool, Clock], object]) -> None:
    """It was recycled, or time has passed and the server has closed it."""
    pool = FakePool(size=1, max_outstanding=1)
    slot = take(pool, ALICE)
    alice = wait_for(pool, ALICE)
    wake, waiter = pool.queue.waiters[0].sleepers.wake, pool.queue.waiters[0]
    waiter.sleepers.wake = lambda sleeper: None  # type: ignore[method-assign]
    pool.give(slot)
    slot.connection.looks = False
    happens(pool, clock)
    wake(waiter)
    assert alice.result().connection.number == 2


# -- closing those that nobody wants -------------------------------------------------------------------


def test_idle_connections_of_an_affinity_that_is_gone_are_closed_and_no_others(clock: Clock) -> None:
    pool = FakePool()
    alices, bobs, _ = idle(pool, clock, ALICE, BOB, ALICE)
    used = take(pool, ALICE)
    pool.close_idle(lambda affinity: affinity == (HERE, ALICE))
    assert [number for number, _ in pool.driver.closed] == [alices.number]
    assert pool.idle_connections == [bobs]
    assert pool.snapshot().closed_by_reason["recycled"] == 1
    assert used.connection is not None


def test_in_another_hub_they_are_dropped(clock: Clock) -> None:
    pool = FakePool()
    idle(pool, clock, ALICE)
    pool.driver.here = object()
    pool.close_idle(lambda affinity: True)
    assert (pool.driver.closed, len(pool.driver.dropped)) == ([], 1)
    assert pool.snapshot().closed_by_reason["recycled"] == 1


def test_those_of_this_hub_are_closed_at_the_end_whoever_they_belong_to(clock: Clock) -> None:
    pool = FakePool()
    idle(pool, clock, ALICE, BOB)
    here = pool.driver.here
    pool.driver.here = object()
    (foreign,) = idle(pool, clock, ALICE)
    pool.driver.here = here
    pool.drain_here()
    assert len(pool.driver.closed) == 2
    assert pool.idle_connections == [foreign]


# -- one server is away, another one is there ---------------------------------------------------------


class Servers(FakePool):
    """Each identity leads to a server of its own."""

    def server_of(self, affinity: Any) -> object:
        return affinity[1]


def looking(pool: FakePool, clock: Clock, identity: object) -> Slot:
    """A slot whose holder looks for a server that is away."""
    slot = pool.checkout(PASSED, "somebody", None, (HERE, identity))
    assert pool.retry_in(ConnectionRefusedError("refused"), clock.now, None, (HERE, identity))
    return slot


def test_a_server_that_is_away_keeps_nobody_from_another_one(clock: Clock) -> None:
    pool = Servers(size=4, max_outstanding=4)
    slot = looking(pool, clock, ALICE)
    # The first in the queue has to wait until that one has found the server.
    waiting = wait_for(pool, ALICE)
    assert Caller(take, pool, BOB, None).result().affinity == (HERE, BOB)
    clock.now += pool.limits.connect_retry
    assert pool.retry_in(ConnectionRefusedError("refused"), clock.now, None, (HERE, ALICE)) is None
    pool.open_failed(slot, ConnectionRefusedError("refused"))
    with pytest.raises(ServerAway):
        waiting.result()
    again = looking_again(pool)
    with pytest.raises(ServerAway):
        take(pool, ALICE, None)
    assert take(pool, BOB, None).affinity == (HERE, BOB)
    pool.fill(again)
    assert not pool.growth.failing
    assert take(pool, ALICE, None).affinity == (HERE, ALICE)


def looking_again(pool: FakePool) -> Slot:
    slot: Slot = Caller(lambda: pool.checkout(None, "somebody", None, (HERE, ALICE))).result()
    assert slot.connection is None
    return slot


def test_who_finds_no_server_pauses_however_many_connect_to_others(clock: Clock) -> None:
    pool = Servers(size=4, max_outstanding=4)
    others = [pool.checkout(PASSED, "somebody", None, (HERE, BOB)) for _ in range(3)]
    slot = looking(pool, clock, ALICE)
    assert [pool.fill(other).affinity for other in others] == [(HERE, BOB)] * 3
    pool.discard(slot)
    assert len(pool) == 3


def test_what_is_known_of_a_server_is_forgotten_with_its_identity(clock: Clock) -> None:
    pool = Servers(size=4, max_outstanding=4)
    pool.discard(looking(pool, clock, ALICE))
    assert pool.growth.failing
    assert pool.growth.latest_error is not None
    pool.growth.forget(ALICE)
    assert not pool.growth.failing
    assert pool.growth.of((HERE, ALICE)).last_error is None
