"""A slot is freed once, whatever becomes of it; limits that change."""

from __future__ import annotations

import gc
import os
import sys
import threading
import warnings
from typing import Any

import pytest

from django_db_pooling.pool import CheckoutTimeout
from django_db_pooling.pool.slots import FINALIZER_TIME
from django_db_pooling.pool.stats import Closed
from tests.unit.fakes import PASSED, SOON, Caller, Clock, FakePool, Interrupt, StrikingLimits, queue_up

pytestmark = pytest.mark.usefixtures("no_second_look")


# -- freeing once ---------------------------------------------------------------------------


def test_discarding_twice_frees_and_counts_once() -> None:
    pool = FakePool(size=2, max_outstanding=2)
    slot, other = pool.take_now(), pool.take_now()
    pool.discard(slot, Closed.BROKEN)
    pool.discard(slot, Closed.BROKEN)
    stats = pool.snapshot()
    assert (len(pool), stats.closed, stats.broken) == (1, 1, 1)
    assert other.connection is not None


def test_a_slot_that_was_discarded_frees_nothing_when_it_is_dropped() -> None:
    pool = FakePool(size=2, max_outstanding=2)
    slot, other = pool.take_now(), pool.take_now()
    pool.discard(slot)
    again = pool.take_now()
    del slot
    assert len(pool) == 2
    assert pool.snapshot().reclaimed == 0
    assert again.connection and other.connection


def test_checking_in_what_was_discarded_makes_nothing_idle() -> None:
    pool = FakePool(size=2, max_outstanding=2)
    slot = pool.take_now()
    pool.discard(slot)
    pool.checkin(slot)
    assert (len(pool), pool.snapshot().idle) == (0, 0)


# -- reclaiming -----------------------------------------------------------------------------


def test_a_slot_that_is_dropped_is_reclaimed() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    pool.take_now()
    assert (len(pool), pool.snapshot().reclaimed, pool.snapshot().closed) == (0, 1, 1)
    assert pool.driver.open == {}


def test_the_connection_of_a_dropped_slot_is_cut_and_not_left_to_its_other_references() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    connection = pool.take_now().connection
    assert pool.driver.dropped == [connection.number]
    assert pool.driver.closed == []


def test_a_dropped_bare_slot_is_reclaimed() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    pool.checkout()
    assert (len(pool), pool.snapshot().opening, pool.snapshot().reclaimed) == (0, 0, 1)


def test_who_left_a_session_at_rest_does_not_keep_the_slot_of_its_next_user_alive() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    rest = pool.rest(pool.take_now())
    pool.recycle()
    pool.take_now()
    assert (len(pool), pool.snapshot().reclaimed) == (0, 1)
    assert pool.resume(rest) is None


def test_what_rests_again_is_not_for_whoever_left_it_before() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    before = pool.rest(slot)
    pool.resting.end(before)
    assert pool.take_now() is slot
    again = pool.rest(slot)
    assert pool.resume(before) is None
    assert pool.resume(again) is slot


def test_a_dropped_slot_wakes_a_waiter() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slots = [pool.take_now()]
    (waiter,) = queue_up(pool, 1)
    slots.clear()
    assert waiter.result().connection is None


def test_a_slot_whose_finalizer_is_interrupted_is_free_after_the_next_look(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    # pytest's own keeps the error, and its frames the slot.
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    pool = FakePool(size=1, max_outstanding=1)
    slots = [pool.take_now()]
    pool.driver.drop_error = Interrupt()
    slots.clear()
    assert len(pool) == 1
    pool.driver.drop_error = None
    (waiter,) = queue_up(pool, 1)
    pool.maintain()
    assert len(pool) == 1
    clock.now += FINALIZER_TIME
    pool.maintain()
    assert waiter.result().connection is None
    assert pool.snapshot().opening == 0


def test_a_slot_in_a_reference_cycle_is_reclaimed_by_the_garbage_collector() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    cycle: list[Any] = [pool.take_now()]
    cycle.append(cycle)
    (waiter,) = queue_up(pool, 1)
    del cycle
    gc.collect()
    bare = waiter.result()
    assert bare.connection is None
    assert pool.snapshot().reclaimed == 1


def test_a_slot_dropped_inside_of_a_match_is_reclaimed_in_the_same_match() -> None:
    """A finalizer strikes in the thread that is just matching: it can't wait for itself to end,
    and what it frees must still reach the waiter.
    """
    pool = FakePool(size=2, max_outstanding=2)
    slots = [pool.take_now()]
    keep = pool.take_now()
    pool.limits = StrikingLimits(pool, slots.clear)  # type: ignore[assignment]
    bare = Caller(pool.checkout, PASSED).result()
    assert bare.connection is None
    assert pool.snapshot().reclaimed == 1
    assert keep.connection is not None


def test_slots_of_a_forked_child_are_neither_dropped_nor_freed() -> None:
    """The socket is the parent's: a child that lets go of a slot must not cut it."""
    pool = FakePool()
    slots = [pool.take_now()]
    pool.open_idle(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            slots.clear()
            gc.collect()
            untouched = not pool.driver.dropped and not pool.driver.closed and len(pool.driver.open) == 2
            os._exit(0 if untouched and len(pool) == 2 and not pool.snapshot().reclaimed else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


# -- resizing -------------------------------------------------------------------------------


def test_a_smaller_cap_closes_idle_connections_at_once_the_oldest_first() -> None:
    pool = FakePool(size=4, max_outstanding=4)
    connections = pool.open_idle(4)
    pool.resize(FakePool(size=1, max_outstanding=2).limits)
    assert [number for number, _ in pool.driver.closed] == [connections[0].number, connections[1].number]
    assert pool.idle_connections == connections[2:]


def test_a_smaller_cap_closes_connections_in_use_as_they_come_back() -> None:
    pool = FakePool(size=4, max_outstanding=4)
    slots = [pool.take_now() for _ in range(4)]
    pool.resize(FakePool(size=1, max_outstanding=2).limits)
    assert len(pool.driver.open) == 4
    for slot in slots[:2]:
        assert not pool.wants(slot)
        pool.give(slot)
    for slot in slots[2:]:
        assert pool.wants(slot)
        pool.give(slot)
    assert len(pool) == len(pool.driver.open) == 2


def test_nobody_opens_before_a_smaller_cap_is_reached() -> None:
    pool = FakePool(size=3, max_outstanding=3)
    slots = [pool.take_now() for _ in range(3)]
    pool.resize(FakePool(size=1, max_outstanding=1).limits)
    (waiter,) = queue_up(pool, 1)
    pool.give(slots.pop())
    pool.give(slots.pop())
    assert waiter.is_alive()
    pool.give(slots.pop())
    served = waiter.result()
    assert (len(pool), served.pool) == (1, pool)


# -- keeping --------------------------------------------------------------------------------


def test_a_connection_at_the_cap_is_kept_while_somebody_else_asks_for_a_slot() -> None:
    """At the cap one caller tries for a slot, in vain. Another gives its healthy connection back
    in that very moment: the attempt mustn't make the pool look overfull.
    """
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    limits = pool.limits
    kept: list[bool] = []

    def another_thread_looks() -> None:
        pool.limits = limits
        kept.append(pool.wants(slot))
        pool.limits = striking  # type: ignore[assignment]

    striking = StrikingLimits(pool, another_thread_looks)
    pool.limits = striking  # type: ignore[assignment]
    with pytest.raises(CheckoutTimeout):
        pool.checkout(PASSED)
    assert kept
    assert all(kept)


def test_a_connection_returned_while_the_matcher_makes_room_is_handed_over() -> None:
    """The matcher has seen nothing idle and finds no room; then a connection comes back. It is one
    of the waiter's own hub: no reason to drop it.
    """
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    limits = pool.limits

    def another_thread_gives_back() -> None:
        pool.limits = limits
        pool.give(slot)

    pool.limits = StrikingLimits(pool, another_thread_gives_back)  # type: ignore[assignment]
    assert pool.checkout(PASSED) is slot
    assert slot.connection is not None
    assert pool.driver.dropped == []


def test_a_busy_pool_closes_no_healthy_connection() -> None:
    pool = FakePool(size=3, max_outstanding=3)
    barrier = threading.Barrier(16)

    def work() -> None:
        barrier.wait(SOON)
        for _ in range(200):
            pool.give(pool.take())

    for caller in [Caller(work) for _ in range(16)]:
        caller.result(20)
    assert pool.driver.made <= 3
    assert (pool.driver.closed, pool.driver.dropped) == ([], [])
