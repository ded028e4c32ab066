"""An exception from a signal handler at every point of every operation of the pool: no slot may be lost.

Each test runs its scenario again and again, and interrupts it one point later each time, until a
run gets to its end.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable

import pytest

from django_db_pooling.pool import slots as slots_module
from django_db_pooling.pool.waiter import CheckoutTimeout
from django_db_pooling.process import wakeup
from tests.unit.fakes import PASSED, Caller, Clock, FakePool, interrupted_at, queue_up, until

PACKAGE = "/django_db_pooling/"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiters look for themselves soon: what is tested is that there is something to be found."""
    monkeypatch.setattr(wakeup, "RECHECK_INTERVAL", 0.002)
    monkeypatch.setattr(slots_module, "CLOSE_WAIT", 0.0)


def interrupt_everywhere(scenario: Callable[[FakePool], object], pool: Callable[[], FakePool]) -> None:
    point = 0
    while True:
        tried = pool()
        if not interrupted_at(point, PACKAGE, lambda tried=tried: scenario(tried)):  # type: ignore[misc]
            break
        nothing_is_lost(tried, f"interrupted at point {point}")
        point += 1
    assert point > 5
    nothing_is_lost(tried, "not interrupted")


def nothing_is_lost(pool: FakePool, when: str) -> None:
    if len(pool) != pool.snapshot().idle:
        # Tracebacks and frames refer to each other.
        gc.collect()
    stats = pool.snapshot()
    assert stats.opening == 0, when
    assert stats.waiting == 0, when
    assert len(pool) == stats.idle == len(pool.driver.open), when
    assert len(set(pool.idle_connections)) == stats.idle, when
    most = pool.limits.max_outstanding
    assert most is not None
    held = [pool.take_now() for _ in range(most)]
    with pytest.raises(CheckoutTimeout):
        pool.checkout(PASSED)
    assert len(held) == len(pool) == len(pool.driver.open) == most, when


def small_pool() -> FakePool:
    return FakePool(size=1, max_outstanding=2, min_size=1)


def small_pool_with_idle_connections() -> FakePool:
    pool = small_pool()
    pool.open_idle(2)
    return pool


def test_taking_opening_and_giving_back() -> None:
    interrupt_everywhere(lambda pool: pool.give(pool.take()), small_pool)


def test_taking_an_idle_connection_and_giving_it_back() -> None:
    interrupt_everywhere(lambda pool: pool.give(pool.take()), small_pool_with_idle_connections)


def test_taking_while_idle_connections_are_dead() -> None:
    def dead() -> FakePool:
        pool = small_pool_with_idle_connections()
        for connection in pool.idle_connections:
            connection.looks = False
        return pool

    interrupt_everywhere(lambda pool: pool.give(pool.take()), dead)


def test_taking_while_idle_connections_are_another_hubs() -> None:
    def foreign() -> FakePool:
        pool = small_pool_with_idle_connections()
        pool.driver.here = object()
        return pool

    interrupt_everywhere(lambda pool: pool.give(pool.take()), foreign)


def test_a_failed_open() -> None:
    interrupt_everywhere(lambda pool: pool.open_failed(pool.checkout(), OSError()), small_pool)


def test_closing() -> None:
    interrupt_everywhere(lambda pool: pool.close(pool.take()), small_pool_with_idle_connections)


def test_discarding() -> None:
    interrupt_everywhere(lambda pool: pool.discard(pool.take()), small_pool_with_idle_connections)


def test_a_timeout() -> None:
    def time_out(pool: FakePool) -> None:
        held = [pool.take(), pool.take()]
        with contextlib.suppress(CheckoutTimeout):
            pool.checkout(time.monotonic() + 0.003)
        for slot in held:
            pool.give(slot)

    interrupt_everywhere(time_out, small_pool_with_idle_connections)


def test_maintaining(clock: Clock) -> None:
    def old() -> FakePool:
        pool = small_pool_with_idle_connections()
        clock.now += 400
        return pool

    interrupt_everywhere(lambda pool: pool.maintain(), old)


def test_reserving_the_minimum() -> None:
    def reserve(pool: FakePool) -> None:
        slot = pool.reserve_minimum()
        assert slot is not None
        pool.give(pool.fill(slot))

    interrupt_everywhere(reserve, small_pool)


def test_recycling() -> None:
    interrupt_everywhere(lambda pool: pool.recycle(), small_pool_with_idle_connections)


@pytest.mark.parametrize("end", ["give", "close", "discard"])
def test_a_waiter_is_served_although_whoever_lets_go_is_interrupted(
    end: str,
) -> None:
    """The waiter is in another thread. The exception may strike between its being taken out of the
    queue and its being served: it isn't in the queue any more and nobody else will serve it.
    """
    point = 0
    more = True
    while more:
        pool = FakePool(size=1, max_outstanding=1)
        slots = [pool.take()]
        (waiter,) = queue_up(pool, 1)
        more = interrupted_at(point, PACKAGE, lambda: getattr(pool, end)(slots.pop()))  # noqa: B023
        until(lambda: not waiter.is_alive(), 2.0)  # noqa: B023
        served = waiter.result()
        assert len(pool) == 1, f"interrupted at point {point}"
        assert served.pool is pool
        point += 1


def test_a_waiter_that_is_interrupted_passes_on_what_it_got() -> None:
    """Another thread gives its connection back as soon as somebody waits, whoever that is."""
    point = 0
    more = True
    while more:
        pool = FakePool(size=1, max_outstanding=1)
        slots = [pool.take()]

        def give_when_asked() -> None:
            until(lambda: pool.waiting or done)  # noqa: B023
            pool.give(slots.pop())  # noqa: B023

        done: list[bool] = []
        giver = Caller(give_when_asked)
        more = interrupted_at(point, PACKAGE, lambda: pool.give(pool.take()))  # noqa: B023
        done.append(True)
        giver.result()
        nothing_is_lost(pool, f"interrupted at point {point}")
        point += 1
