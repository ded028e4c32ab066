"""Slots whose statement was given up: they count until the server has ended it, and are free once."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import pytest

from django_db_pooling.pool import ending
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.stats import Closed
from tests.unit.fakes import Caller, FakeDriver, FakePool, interrupted_at, queue_up, until

PACKAGE = "/django_db_pooling/"


class Server:
    """Ends what it is told to when the test lets it."""

    def __init__(self, driver: FakeDriver) -> None:
        self._may_end = threading.Semaphore(0)
        self.busy = self.most = 0
        self._lock = threading.Lock()
        driver.at_end = self.end

    def end(self, seconds: float) -> None:
        with self._lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
        self._may_end.acquire(timeout=10)
        with self._lock:
            self.busy -= 1

    def let_end(self, count: int = 1) -> None:
        self._may_end.release(count)


@pytest.fixture
def pool() -> FakePool:
    return FakePool(size=10, max_outstanding=10)


@pytest.fixture
def server(pool: FakePool) -> Iterator[Server]:
    made = Server(pool.driver)
    yield made
    made.let_end(1000)
    until(lambda: not made.busy)


def executing(pool: FakePool) -> Slot:
    slot = pool.take()
    slot.connection.executing = True
    return slot


def test_it_counts_and_is_nobodys_until_it_has_ended(pool: FakePool, server: Server) -> None:
    pool.limits = FakePool(size=1, max_outstanding=1).limits
    pool.give_up(executing(pool), Closed.BROKEN)
    stats = pool.snapshot()
    assert (stats.in_use, stats.idle, stats.opening, stats.ending, stats.free) == (0, 0, 0, 1, 0)
    assert (len(pool), pool.held(), pool.holders()) == (1, [], [])
    (waiter,) = queue_up(pool, 1)
    until(lambda: pool.driver.ended == [[1]])
    assert pool.driver.open and pool.waiting == 1
    server.let_end()
    slot = waiter.result()
    assert (slot.connection, pool.driver.dropped) == (None, [1])
    pool.fill(slot)
    stats = pool.snapshot()
    assert (stats.in_use, stats.ending, stats.abandoned, stats.broken, stats.closed) == (1, 0, 1, 1, 1)
    assert stats.helds.count == 1


def test_what_executes_nothing_is_free_at_once(pool: FakePool) -> None:
    pool.give_up(pool.take())
    pool.give_up(pool.checkout())
    assert (len(pool), pool.driver.ended, pool.snapshot().abandoned) == (0, [], 0)


def test_switched_off_it_is_free_at_once_and_counted() -> None:
    pool = FakePool(cancel=False)
    pool.give_up(executing(pool))
    assert (len(pool), pool.driver.ended, pool.snapshot().abandoned) == (0, [], 1)


def test_one_that_takes_too_long_is_free_all_the_same(
    pool: FakePool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "END_TIME", 0.05)
    pool.give_up(executing(pool))
    until(lambda: server.busy)
    pool.maintain()
    assert len(pool) == 1
    time.sleep(0.06)
    pool.maintain()
    assert (len(pool), pool.snapshot().ending, pool.driver.dropped) == (0, 0, [1])
    others = [pool.take() for _ in range(3)]
    server.let_end()
    until(lambda: not server.busy)
    assert (len(pool), pool.snapshot().in_use) == (3, 3)
    del others


def test_who_waits_gets_the_place_of_one_that_takes_too_long_without_a_housekeeper(
    pool: FakePool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "END_TIME", 0.1)
    pool.limits = FakePool(size=1, max_outstanding=1).limits
    pool.give_up(executing(pool))
    (waiter,) = queue_up(pool, 1)
    assert waiter.result(2.0).connection is None
    assert (pool.snapshot().ending, server.busy) == (0, 1)


@pytest.mark.parametrize(("together", "most"), [(False, ending.AT_A_TIME), (True, 1)])
def test_few_are_ended_at_a_time(together: bool, most: int, pool: FakePool) -> None:
    driver = FakeDriver()
    driver.ends_elsewhere = together
    pool = FakePool(driver, size=10, max_outstanding=10)
    server = Server(driver)
    slots = [executing(pool) for _ in range(10)]
    while slots:
        pool.give_up(slots.pop())
    until(lambda: server.busy == most)
    time.sleep(0.02)
    assert (server.most, pool.snapshot().ending) == (most, 10)
    server.let_end(10)
    until(lambda: len(pool) == 0)
    assert server.most == most
    assert sorted(number for batch in driver.ended for number in batch) == list(range(1, 11))
    assert len(driver.ended) <= 2 if together else len(driver.ended) == 10


def test_those_of_other_settings_are_not_ended_with_them() -> None:
    driver = FakeDriver()
    driver.ends_elsewhere = True
    pool = FakePool(driver)
    server = Server(driver)
    for affinity in ("a", "b", "a"):
        slot = pool.fill(pool.checkout(affinity=affinity))
        slot.connection.executing = True
        pool.give_up(slot)
    del slot
    server.let_end(3)
    until(lambda: len(pool) == 0)
    assert not any({1, 2} <= set(batch) or {2, 3} <= set(batch) for batch in driver.ended)


def test_one_that_its_holder_drops_is_ended_too(pool: FakePool) -> None:
    slots = [executing(pool)]
    slots.clear()
    gc.collect()
    until(lambda: pool.driver.ended == [[1]])
    until(lambda: len(pool) == 0)
    stats = pool.snapshot()
    assert (stats.reclaimed, stats.abandoned, stats.closed) == (1, 1, 1)


def test_an_error_frees_it_and_is_noted(pool: FakePool) -> None:
    def fail(seconds: float) -> None:
        raise ConnectionRefusedError("nobody is there")

    pool.driver.at_end = fail
    pool.give_up(executing(pool))
    until(lambda: len(pool) == 0)
    assert "not_ended" in [note.event for note in pool.journal._notes]


def test_where_no_thread_can_start_the_housekeeper_sees_to_it(
    pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(function: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(ending.green, "start_native", fail)
        pool.give_up(executing(pool))
        pool.maintain()
        assert pool.snapshot().ending == 1
    pool.maintain()
    until(lambda: len(pool) == 0)
    assert pool.driver.ended == [[1]]


def test_interrupted_anywhere_it_is_neither_lost_nor_freed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "END_TIME", 0.005)
    point = 0
    more = True
    while more:
        pool = FakePool(size=1, max_outstanding=2)
        slots = [executing(pool)]
        other = pool.take()
        more = interrupted_at(point, PACKAGE, lambda: pool.give_up(slots.pop()))  # noqa: B023
        gc.collect()

        def is_over() -> bool:
            pool.maintain()  # noqa: B023
            return len(pool) == 1 and not pool.snapshot().ending  # noqa: B023

        until(is_over, 2.0)
        assert pool.driver.dropped == [1], f"interrupted at point {point}"
        assert pool.snapshot().in_use == 1
        again = pool.take_now()
        assert len(pool) == 2
        del again, other
        point += 1
    assert point > 10


def test_it_belongs_to_nobody_who_waits_for_what_comes_back(pool: FakePool, server: Server) -> None:
    """While connecting fails, waiters wait for what others have, and nobody has this one."""
    slot = executing(pool)
    affinity = slot.affinity
    pool.give_up(slot)
    assert not pool.queue.others_may_come_back(affinity)
    assert Caller(pool.snapshot).result().ending == 1
