"""Connections that are too old, idle for too long, recycled, or under suspicion."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from django_db_pooling.pool import CheckoutTimeout, maintenance, openings
from django_db_pooling.pool import growth as growth_module
from tests.unit.fakes import PASSED, Clock, FakePool, queue_up

pytestmark = pytest.mark.usefixtures("no_second_look")


# -- ages -----------------------------------------------------------------------------------


def test_an_age_is_cut_by_a_share_that_is_fixed_at_birth(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openings, "random", SimpleNamespace(random=lambda: 0.5))
    pool = FakePool(max_age=1000.0)
    slot = pool.take_now()
    monkeypatch.setattr(openings, "random", SimpleNamespace(random=lambda: 0.0))
    clock.now += 949
    assert pool.wants(slot)
    clock.now += 2
    assert not pool.wants(slot)


@pytest.mark.parametrize("luck", [0.0, 0.999999])
def test_an_age_is_cut_by_a_tenth_at_most(luck: float, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openings, "random", SimpleNamespace(random=lambda: luck))
    pool = FakePool(max_age=1000.0)
    slot = pool.take_now()
    clock.now += 899.9
    assert pool.wants(slot)
    clock.now += 100.2
    assert not pool.wants(slot)


def test_a_connection_that_grew_old_while_idle_is_replaced_at_checkout(clock: Clock) -> None:
    pool = FakePool(max_age=100.0, size=1, max_outstanding=1)
    (connection,) = pool.open_idle(1)
    clock.now += 101
    assert pool.checkout(PASSED).connection is None
    assert [number for number, _ in pool.driver.closed] == [connection.number]


def test_a_connection_that_grew_old_on_its_way_to_a_waiter_is_replaced(clock: Clock) -> None:
    """It is fit when it is given back, and too old when its waiter wakes: the waiter keeps its turn."""
    pool = FakePool(max_age=100.0, size=1, max_outstanding=1)
    slot = pool.take_now()
    first, second = queue_up(pool, 2)
    clock.now += 101
    pool.checkin(slot)
    bare = first.result()
    assert bare.connection is None
    assert second.is_alive()
    pool.discard(bare)
    second.result()


def test_without_max_age_connections_never_grow_old(clock: Clock) -> None:
    pool = FakePool(max_age=None)
    slot = pool.take_now()
    clock.now += 1e9
    assert pool.wants(slot)


def test_with_max_age_0_no_connection_is_used_twice(clock: Clock) -> None:
    pool = FakePool(max_age=0)
    slot = pool.take_now()
    assert not pool.wants(slot)


# -- recycling and draining -----------------------------------------------------------------


def test_recycle_closes_idle_connections_and_those_in_use_as_they_come_back() -> None:
    pool = FakePool()
    used = pool.take_now()
    (idle,) = pool.open_idle(1)
    pool.recycle()
    assert [number for number, _ in pool.driver.closed] == [idle.number]
    assert pool.holds_recycled([])
    assert not pool.holds_recycled([used])
    assert not pool.wants(used)
    fresh = pool.take_now()
    assert pool.wants(fresh)
    pool.give(used)
    assert not pool.holds_recycled([])


def test_a_connection_that_was_being_opened_when_the_pool_was_recycled_does_not_stay() -> None:
    pool = FakePool()
    opening = pool.checkout()
    pool.recycle()
    pool.fill(opening)
    assert not pool.wants(opening)


def test_a_recycled_connection_is_not_handed_out_even_if_it_became_idle() -> None:
    """It is recycled in the moment between the look whether it is kept, and its return."""
    pool = FakePool()
    slot = pool.take_now()
    assert pool.wants(slot)
    pool.recycle()
    pool.checkin(slot)
    assert pool.checkout(PASSED).connection is None
    assert len(pool.driver.closed) == 1


def test_drain_closes_what_is_idle_and_nothing_else() -> None:
    pool = FakePool()
    used = pool.take_now()
    pool.open_idle(3)
    pool.drain()
    assert len(pool.driver.closed) == 3
    assert pool.wants(used)


def test_a_closing_pool_keeps_nothing() -> None:
    pool = FakePool()
    used = pool.take_now()
    pool.open_idle(1)
    pool.closing = True
    assert not pool.wants(used)
    pool.maintain()
    assert pool.snapshot().idle == 0
    assert pool.reserve_minimum() is None


# -- maintaining ----------------------------------------------------------------------------


def test_idle_connections_are_closed_after_the_idle_timeout_down_to_min_size(clock: Clock) -> None:
    pool = FakePool(size=5, min_size=2, idle_timeout=300.0, max_age=None)
    connections = pool.open_idle(5)
    clock.now += 299
    pool.maintain()
    assert pool.snapshot().idle == 5
    clock.now += 2
    pool.maintain()
    assert pool.idle_connections == connections[3:]


def test_connections_in_use_count_towards_min_size(clock: Clock) -> None:
    pool = FakePool(size=5, min_size=2, idle_timeout=300.0, max_age=None)
    held = [pool.take_now(), pool.take_now()]
    pool.open_idle(2)
    clock.now += 301
    pool.maintain()
    assert len(pool) == len(held)


def test_without_idle_timeout_idle_connections_stay(clock: Clock) -> None:
    pool = FakePool(size=5, idle_timeout=None, max_age=None)
    pool.open_idle(3)
    clock.now += 1e6
    pool.maintain()
    assert pool.snapshot().idle == 3


def test_idle_connections_over_size_are_closed_when_they_have_not_been_used_for_a_while(
    clock: Clock,
) -> None:
    pool = FakePool(size=2, max_outstanding=5)
    connections = pool.open_idle(5)
    clock.now += maintenance.EXCESS_STAYS - 1
    pool.maintain()
    assert pool.snapshot().idle == 5
    clock.now += 2
    pool.maintain()
    assert pool.idle_connections == connections[3:]


def test_the_excess_that_was_used_lately_stays(clock: Clock) -> None:
    pool = FakePool(size=1, max_outstanding=3)
    pool.open_idle(2)
    clock.now += maintenance.EXCESS_STAYS + 1
    pool.give(pool.take_now())
    newest = pool.idle_connections[-1]
    pool.maintain()
    assert pool.idle_connections == [newest]


def test_idle_connections_are_closed_before_the_server_would(clock: Clock) -> None:
    pool = FakePool(idle_timeout=None, max_age=None)
    pool.open_idle(2)
    for slot in pool.slots.idle():
        slot.server_timeout = 60.0
    clock.now += 59
    pool.maintain()
    assert pool.snapshot().idle == 2
    clock.now += 1
    pool.maintain()
    assert pool.snapshot().idle == 0


def test_connections_that_died_while_idle_are_found(clock: Clock) -> None:
    pool = FakePool()
    alive, dead = pool.open_idle(2)
    dead.looks = False
    clock.now += 1
    pool.maintain()
    assert pool.idle_connections == [alive]
    assert pool.snapshot().broken == 1


@pytest.mark.parametrize("looks", [None, False])
def test_maintain_leaves_connections_alone_that_were_taken_meanwhile(looks: bool | None) -> None:
    """Closing one takes time; the other one is taken meanwhile and is in the middle of a query, so
    its socket can be read: nothing about it is odd, and nobody else is suspect for it.
    """
    pool = FakePool(size=2, max_outstanding=2, max_age=None)
    old, healthy = pool.open_idle(2)
    pool.slots.idle()[0].expires_at = 0.0
    pool.driver.used_looks = looks
    taken: list[Any] = []
    pool.driver.at_close = lambda: taken.append(pool.take_now("another thread"))
    pool.maintain()
    assert [slot.connection for slot in taken] == [healthy]
    assert [number for number, _ in pool.driver.closed] == [old.number]
    assert pool.snapshot().broken == 0
    assert not pool.is_suspect(taken[0])


def test_a_connection_that_dies_is_counted_once_though_two_find_it() -> None:
    """The housekeeper looks at an idle connection; before it acts, a caller has popped and closed it."""
    pool = FakePool(size=2, max_outstanding=2)
    (dead,) = pool.open_idle(1)
    dead.looks = False
    alive = pool.driver.alive

    def look(connection: Any) -> bool | None:
        pool.driver.alive = alive  # type: ignore[method-assign]
        bare = pool.checkout(PASSED)
        assert bare.connection is None
        return alive(connection)

    pool.driver.alive = look  # type: ignore[method-assign]
    pool.maintain()
    assert (pool.snapshot().broken, pool.snapshot().closed) == (1, 1)


def test_maintain_serves_who_waits(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two opened and stalled, and the third doesn't look for itself: the housekeeper does."""
    monkeypatch.setattr(growth_module, "STALLED", 0.5)
    pool = FakePool(size=5, max_outstanding=5)
    held = [pool.checkout(), pool.checkout()]
    monkeypatch.setattr(growth_module, "STALLED", 3600.0)
    (waiter,) = queue_up(pool, 1)
    monkeypatch.setattr(growth_module, "STALLED", 0.5)
    clock.now += 1
    pool.maintain()
    assert waiter.result().connection is None
    assert len(held) == 2


def test_the_minimum_is_reserved_one_by_one() -> None:
    pool = FakePool(size=3, min_size=3)
    for count in range(3):
        slot = pool.reserve_minimum()
        assert slot is not None and slot.connection is None
        pool.give(pool.fill(slot))
        assert len(pool) == count + 1
    assert pool.reserve_minimum() is None


def test_the_minimum_is_not_reserved_while_two_are_opening_or_beyond_the_cap() -> None:
    pool = FakePool(size=3, min_size=3, max_outstanding=3)
    opening = [pool.checkout(), pool.checkout()]
    assert pool.reserve_minimum() is None
    for slot in opening:
        pool.fill(slot)
    pool.resize(FakePool(size=2, min_size=2, max_outstanding=2).limits)
    assert pool.reserve_minimum() is None
    assert pool.waiting == 0


def test_a_reserved_slot_says_that_the_housekeeper_holds_it(clock: Clock) -> None:
    pool = FakePool(size=1, min_size=1, max_outstanding=1)
    slot = pool.reserve_minimum()
    with pytest.raises(CheckoutTimeout, match="by the housekeeper"):
        pool.checkout(PASSED)
    assert slot is not None


# -- doubt ----------------------------------------------------------------------------------


def test_a_fresh_connection_is_not_doubted(clock: Clock) -> None:
    pool = FakePool()
    assert not pool.is_suspect(pool.take_now())


def test_after_a_death_everything_opened_before_is_doubted_until_it_is_proved(clock: Clock) -> None:
    pool = FakePool()
    before = pool.take_now()
    clock.now += 1
    pool.suspect_all()
    clock.now += 1
    after = pool.take_now()
    assert pool.is_suspect(before)
    assert not pool.is_suspect(after)
    pool.validated(before)
    assert not pool.is_suspect(before)


def test_a_dead_idle_connection_makes_the_others_suspect_and_counts_as_broken(clock: Clock) -> None:
    pool = FakePool()
    other, dead = pool.open_idle(2)
    dead.looks = False
    clock.now += 1
    slot = pool.take_now()
    assert slot.connection is other
    assert pool.is_suspect(slot)
    assert pool.snapshot().broken == 1


def test_a_connection_that_only_a_question_can_tell_about_is_handed_out_and_doubted() -> None:
    pool = FakePool()
    odd, good = pool.open_idle(2)
    odd.looks = None
    slots = [pool.take_now(), pool.take_now()]
    assert [pool.is_suspect(slot) for slot in slots] == [False, True]
    pool.validated(slots[1])
    assert not pool.is_suspect(slots[1])
    pool.suspect(slots[0])
    assert pool.is_suspect(slots[0])
    assert pool.snapshot().broken == 0
