"""A holder whose connection can't be used opens another one in its place."""

from __future__ import annotations

import pytest

from django_db_pooling.pool.stats import Closed
from tests.unit.fakes import PASSED, Clock, FakePool, Interrupt, queue_up

pytestmark = pytest.mark.usefixtures("no_second_look")

REFUSED = ConnectionRefusedError("nobody is there")


def test_the_slot_stays_the_holders_and_becomes_bare(clock: Clock) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    slot.dirty = slot.beyond_reset = slot.broken = True
    slot.server_timeout = 60.0
    (waiter,) = queue_up(pool, 1)
    assert pool.reopen(slot, Closed.UNCLEAN)
    assert (slot.connection, pool.driver.open) == (None, {})
    assert (len(pool), pool.snapshot().opening, pool.snapshot().in_use) == (1, 1, 0)
    assert waiter.is_alive()
    assert not slot.dirty and not slot.beyond_reset and not slot.broken
    pool.fill(slot)
    pool.give(slot)
    assert waiter.result() is slot
    assert pool.snapshot().closed_by_reason["unclean"] == 1
    assert (pool.snapshot().opened, pool.snapshot().closed) == (2, 1)


def test_a_connection_from_before_a_recycle_is_replaced_by_one_that_is_wanted() -> None:
    pool = FakePool()
    slot = pool.take_now()
    pool.recycle()
    assert pool.reopen(slot)
    assert pool.wants(pool.fill(slot))


def test_how_long_it_took_to_open_is_counted_from_there(clock: Clock) -> None:
    pool = FakePool()
    slot = pool.take_now()
    clock.now += 100
    pool.reopen(slot)
    clock.now += 2
    pool.fill(slot)
    assert pool.snapshot().connects.seconds == 2
    clock.now += 1
    pool.give(slot)
    assert pool.snapshot().held_seconds == 103


def test_the_pool_does_not_grow_by_it_so_others_that_open_do_not_matter() -> None:
    pool = FakePool(size=9, max_outstanding=9)
    slot = pool.take_now()
    opening = [pool.checkout(PASSED), pool.checkout(PASSED)]
    assert pool.reopen(slot)
    assert pool.snapshot().opening == len(opening) + 1


def test_while_no_server_is_there_one_tries_for_all(clock: Clock) -> None:
    pool = FakePool(size=9, max_outstanding=9)
    slot = pool.take_now()
    clock.now += 1
    pool.suspect_all()
    probe = pool.checkout(PASSED)
    assert pool.retry_in(REFUSED, clock.now, None)
    assert not pool.reopen(slot, Closed.BROKEN)
    assert (len(pool), pool.snapshot().broken) == (1, 1)
    assert probe.connection is None


def test_of_many_that_found_the_server_gone_few_try_again(clock: Clock) -> None:
    """All of them had opened in their places before the first one failed."""
    pool = FakePool(size=9, max_outstanding=9)
    slots = [pool.take_now() for _ in range(5)]
    clock.now += 1
    pool.suspect_all()
    assert all(pool.reopen(slot, Closed.BROKEN) for slot in slots)
    pauses = []
    for slot in slots:
        pauses.append(pool.retry_in(REFUSED, clock.now, None))
        if not pauses[-1]:
            pool.discard(slot)
    assert [bool(pause) for pause in pauses] == [False, False, False, True, True]


def test_beyond_a_lowered_cap_it_frees_its_place() -> None:
    pool = FakePool(size=2, max_outstanding=2)
    slot, other = pool.take_now(), pool.take_now()
    pool.resize(FakePool(size=1, max_outstanding=1).limits)
    assert not pool.reopen(slot)
    assert (len(pool), len(pool.driver.open)) == (1, 1)
    assert other.connection is not None


def test_when_the_close_is_interrupted_the_slot_is_free() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    (waiter,) = queue_up(pool, 1)
    pool.driver.close_error = Interrupt()
    with pytest.raises(Interrupt):
        pool.reopen(slot)
    bare = waiter.result()
    assert (bare.connection, pool.snapshot().opening) == (None, 1)
