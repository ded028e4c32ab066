"""Overload: who waits for too long while nobody is served soon is turned away, and no one else."""

from __future__ import annotations

import time

import pytest

from benchmarks.calls import counting
from django_db_pooling.pool import CheckoutTimeout
from django_db_pooling.pool.pool import Pool
from django_db_pooling.pool.slot import Slot
from django_db_pooling.process import wakeup
from tests.unit.fakes import PASSED, Caller, Clock, FakePool, queue_up, until

TARGET = 0.1


def waiting(clock: Clock, **limits: float) -> tuple[FakePool, Slot]:
    """A pool of one connection, which somebody has."""
    pool = FakePool(size=1, max_outstanding=1, wait_target=TARGET, **limits)
    return pool, pool.take_now()


@pytest.fixture(autouse=True)
def no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits doesn't look for itself."""
    monkeypatch.setattr(wakeup, "RECHECK_INTERVAL", 3600.0)


def is_shed(caller: Caller) -> bool:
    with pytest.raises(CheckoutTimeout, match=r"shed after \d\.\d s, the pool is overloaded \(WAIT_T"):
        caller.result()
    return True


def served(pool: FakePool, slot: Slot, caller: Caller) -> Slot:
    pool.give(slot)
    found: Slot = caller.result()
    return found


def test_who_has_waited_for_twice_the_target_is_turned_away_and_the_next_is_served(clock: Clock) -> None:
    pool, slot = waiting(clock)
    shedding = pool.queue.shedding
    assert shedding is not None
    callers = queue_up(pool, 2)
    for _ in range(9):
        clock.now += 0.11
        callers += queue_up(pool, 1)
        if len(callers) > 3:
            slot = served(pool, slot, callers.pop(0))
    assert not shedding.is_overloaded
    clock.now += 0.02
    assert shedding.is_overloaded
    clock.now += 0.05
    # They have waited for 0.29, 0.18 and 0.07 seconds.
    first, second, third = callers
    slot = served(pool, slot, second)
    assert is_shed(first)
    assert shedding.is_overloaded
    # One who is served soon shows that it is over.
    slot = served(pool, slot, third)
    assert not shedding.is_overloaded
    assert (pool.snapshot().shed, pool.snapshot().timeouts, pool.waiting) == (1, 1, 0)
    pool.give(slot)


def test_a_burst_sheds_nobody(clock: Clock) -> None:
    """All are served, late, before a second is over."""
    pool, slot = waiting(clock)
    for caller in queue_up(pool, 9):
        clock.now += 0.1
        slot = served(pool, slot, caller)
    pool.give(slot)
    assert pool.snapshot().shed == 0


def test_long_waits_one_after_the_other_shed_nobody(clock: Clock) -> None:
    """The queue is empty in between."""
    pool, slot = waiting(clock)
    for _ in range(5):
        (caller,) = queue_up(pool, 1)
        clock.now += 0.9
        slot = served(pool, slot, caller)
    pool.give(slot)
    assert pool.snapshot().shed == 0


def test_where_some_are_served_soon_nobody_is_shed(clock: Clock) -> None:
    pool, slot = waiting(clock)
    callers = queue_up(pool, 1)
    for number in range(20):
        clock.now += 0.3 if number % 2 else 0.05
        callers += queue_up(pool, 1)
        slot = served(pool, slot, callers.pop(0))
    clock.now += 0.3
    slot = served(pool, slot, callers.pop())
    pool.give(slot)
    assert pool.snapshot().shed == 0


def test_nobody_comes_back_and_they_are_turned_away_all_the_same(clock: Clock) -> None:
    """One who looks around has them leave."""
    pool, slot = waiting(clock)
    callers = queue_up(pool, 3)
    clock.now += 0.99
    pool.queue.match()
    assert pool.waiting == 3
    clock.now += 0.02
    (late,) = queue_up(pool, 1)
    pool.queue.match()
    assert all(is_shed(caller) for caller in callers)
    pool.give(served(pool, slot, late))


def test_a_long_target_has_a_long_interval(clock: Clock) -> None:
    pool = FakePool(size=1, max_outstanding=1, wait_target=1.0)
    slot = pool.take_now()
    callers = queue_up(pool, 1)
    clock.now += 9.9
    pool.queue.match()
    assert pool.waiting == 1
    clock.now += 0.2
    pool.queue.match()
    with pytest.raises(CheckoutTimeout, match="shed"):
        callers[0].result()
    pool.give(slot)


def test_waits_for_another_reason_shed_nobody(clock: Clock) -> None:
    """A pause, and a server that is away: afterwards all who waited for that are served."""
    pool, slot = waiting(clock, connect_retry=0.0)
    callers = queue_up(pool, 3)
    pool.pause.begin(60)
    clock.now += 50
    pool.queue.match()
    pool.give(slot)
    pool.pause.end()
    for caller in callers:
        clock.now += 0.3
        pool.give(caller.result())
    assert pool.snapshot().shed == 0


def test_callers_that_do_not_count_are_shed_uncounted(clock: Clock) -> None:
    pool, slot = waiting(clock)
    caller = Caller(lambda: pool.checkout(None, "a look at the page", counted=False))
    until(lambda: pool.waiting == 1)
    clock.now += 2
    pool.queue.match()
    assert is_shed(caller)
    assert (pool.snapshot().shed, pool.snapshot().timeouts) == (0, 0)
    pool.give(slot)


def test_without_a_target_nobody_is_shed(clock: Clock) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    callers = queue_up(pool, 3)
    clock.now += 100
    pool.queue.match()
    for caller in callers:
        slot = served(pool, slot, caller)
    pool.give(slot)


def test_the_target_can_be_changed(clock: Clock) -> None:
    from dataclasses import replace

    pool, slot = waiting(clock)
    known = pool.queue.shedding
    pool.resize(replace(pool.limits, size=2, max_outstanding=2))
    assert pool.queue.shedding is known
    pool.resize(replace(pool.limits, wait_target=None))
    assert pool.queue.shedding is None
    pool.give(slot)


def test_it_costs_a_checkout_that_does_not_wait_nothing() -> None:
    def calls(pool: Pool) -> tuple[int, int]:
        with counting() as count:
            slot = pool.checkout(PASSED)
            pool.checkin(slot)
        return count.python, count.c

    pools = [FakePool(size=1, wait_target=target) for target in (None, 0.1)]
    for pool in pools:
        pool.give(pool.take_now())
        calls(pool)
    assert calls(pools[0]) == calls(pools[1])


def test_in_real_time() -> None:
    """Ten callers for one connection that is held for a tenth of a second."""
    pool = FakePool(size=1, max_outstanding=1, wait_target=0.05)
    until_when = time.monotonic() + 3
    waits: list[float] = []
    shed: list[float] = []

    def comes_again() -> None:
        while time.monotonic() < until_when:
            began = time.monotonic()
            try:
                slot = pool.take(began + 30)
            except CheckoutTimeout as error:
                shed.append(error.waited)
                continue
            waits.append(time.monotonic() - began)
            time.sleep(0.1)
            pool.give(slot)

    callers = [Caller(comes_again) for _ in range(10)]
    for caller in callers:
        caller.result()
    assert shed and min(shed) > 0.1
    assert pool.snapshot().shed == len(shed)
    assert len(waits) >= 20
    assert min(waits[-10:]) < 0.5


def test_in_a_pause_it_is_not_overloaded_and_sheds_nobody_nor_after_it(clock: Clock) -> None:
    pool, slot = waiting(clock)
    shedding = pool.queue.shedding
    assert shedding is not None
    callers = queue_up(pool, 2)
    pool.pause.begin(60)
    clock.now += 30
    assert not shedding.is_overloaded
    # As a finalizer does, and whoever returns one that was good a moment ago.
    pool.queue.hand_over(slot, False)
    pool.queue.match()
    assert all(caller.is_alive() for caller in callers) and pool.counts.shed == 0
    pool.pause.end()
    assert not shedding.is_overloaded
    for caller in callers:
        pool.give(caller.result())
