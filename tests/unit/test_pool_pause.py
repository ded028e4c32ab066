"""A pause: nobody gets a connection or opens one; whoever waits goes on when it ends."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest

from django_db_pooling.pool import CheckoutTimeout, pausing
from tests.unit.fakes import PASSED, Caller, Clock, FakePool, queue_up, until


def test_what_is_idle_is_closed_and_what_comes_back_too() -> None:
    pool = FakePool(size=4, max_outstanding=4)
    pool.open_idle(2)
    slot = pool.take_now()
    pool.pause.begin(60)
    assert (len(pool), len(pool.driver.open)) == (1, 1)
    assert slot.connection.looks is True
    pool.give(slot)
    assert (len(pool), pool.driver.open) == (0, {})
    assert pool.reserve_minimum() is None


def test_a_caller_waits_until_it_is_ended() -> None:
    pool = FakePool(size=1, max_outstanding=4)
    pool.pause.begin(60)
    callers = queue_up(pool, 3)
    assert pool.driver.made == 0
    assert pool.snapshot().paused == pytest.approx(60, abs=5)
    assert pool.snapshot().free == 0
    pool.pause.end()
    for caller in callers:
        pool.give(caller.result())
    assert pool.snapshot().paused is None


def test_it_ends_by_itself_without_housekeeping() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    began = time.monotonic()
    pool.pause.begin(0.7)
    (caller,) = queue_up(pool, 1)
    caller.result()
    assert 0.7 <= time.monotonic() - began < 1.7
    # And where nobody waited.
    pool.pause.begin(0.05)
    time.sleep(0.1)
    assert pool.checkout(PASSED) is not None


def test_who_waits_too_long_is_told_why() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    pool.pause.begin(40)
    with pytest.raises(CheckoutTimeout, match=r"The pool is paused, for (39|40) s more\.") as caught:
        pool.checkout(time.monotonic() + 0.05)
    assert caught.value.waited >= 0.05
    with pytest.raises(CheckoutTimeout, match="paused"):
        pool.checkout(PASSED)
    pool.pause.end()
    with pytest.raises(CheckoutTimeout) as caught:
        held = pool.take_now()
        pool.checkout(PASSED)
    assert "paused" not in str(caught.value)
    pool.give(held)


def test_the_later_of_two_ends_counts(clock: Clock) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    pool.pause.begin(60)
    pool.pause.begin(5)
    clock.now += 59
    assert pool.snapshot().paused == 1
    pool.pause.begin(5)
    clock.now += 4
    assert pool.snapshot().paused == 1
    with pytest.raises(CheckoutTimeout):
        pool.checkout(PASSED)
    clock.now += 1
    assert pool.snapshot().paused is None
    pool.give(pool.take_now())


def test_what_is_opened_meanwhile_is_closed_when_it_comes_back() -> None:
    """The holder of a bare slot was in the middle of it."""
    pool = FakePool(size=2, max_outstanding=2)
    slot = pool.checkout(PASSED)
    pool.pause.begin(60)
    pool.fill(slot)
    pool.give(slot)
    assert len(pool) == 0


def test_one_that_is_reset_in_vain_is_not_opened_anew_meanwhile() -> None:
    pool = FakePool(size=2, max_outstanding=2)
    slot = pool.take_now()
    pool.pause.begin(60)
    assert not pool.reopen(slot)
    assert len(pool) == 0


def test_who_takes_another_ones_place_this_instant_has_it_only_once() -> None:
    """Its connection is of this moment, and no connection may be used again in a pause."""
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    pool.driver.at_close = lambda: pool.pause.begin(60)
    pool.slots.make_bare(slot, slot.affinity)
    pool.fill(slot)
    assert not pool.wants(slot)
    pool.give(slot)
    assert len(pool) == 0


def test_what_a_finalizer_has_put_back_is_used_by_nobody() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    caller = Caller(pool.take)
    until(lambda: pool.waiting == 1)
    pool.pause.begin(60)
    connection = slot.connection
    pool.checkin(slot)
    until(lambda: not pool.driver.open)
    assert pool.waiting == 1
    pool.pause.end()
    assert caller.result().connection is not connection


def test_an_attempt_that_finds_no_server_meanwhile_waits_in_line() -> None:
    pool = FakePool(size=1, max_outstanding=1, connect_retry=0.0)
    slot = pool.checkout(PASSED)
    pool.pause.begin(60)
    now = time.monotonic()
    assert pool.retry_in(OSError("refused"), now, now + 5, slot.affinity) == 0
    assert pool.retry_in(OSError("refused"), now, now - 1, slot.affinity) is None
    assert pool.should_queue_again(slot, OSError("refused"), now + 5)
    pool.discard(slot)


def test_an_outage_that_is_known_turns_nobody_away_meanwhile() -> None:
    pool = FakePool(size=1, max_outstanding=1, connect_retry=0.01)
    slot = pool.checkout(PASSED)
    now = time.monotonic()
    assert pool.retry_in(OSError("refused"), now - 1, None, slot.affinity) is None
    pool.open_failed(slot, OSError("refused"))
    pool.pause.begin(60)
    (caller,) = queue_up(pool, 1)
    pool.queue.match()
    pool.queue.turn_away()
    assert caller.is_alive()
    pool.pause.end()
    caller.result()


def test_the_housekeeper_ends_it_and_says_so(clock: Clock) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    pool.pause.begin(5)
    clock.now += 5
    pool.maintain()
    assert pool.pause.until == 0
    pool.pause.end()
    assert not pool.journal.is_pending


@pytest.mark.parametrize("ends", ["by itself", "by hand"])
def test_one_that_begins_while_another_thread_ends_the_one_before(clock: Clock, ends: str) -> None:
    """At whichever point of it."""
    struck, point = True, 0
    while struck:
        struck = _begins_at(point, clock, ends)
        point += 1
    assert point > 5


def _begins_at(point: int, clock: Clock, ends: str) -> bool:
    """Whether the end of a pause has so many lines."""
    pool = FakePool(size=1, max_outstanding=1)
    pause, line, until = pool.pause, -1, 0.0
    pause.begin(1)
    clock.now += 1

    def local(frame: Any, event: str, _: Any) -> Any:
        nonlocal line, until
        if event == "line":
            line += 1
            if line == point:
                sys.settrace(None)
                pause.begin(60)
                until = clock.now + 60
        return local

    def trace(frame: Any, event: str, _: Any) -> Any:
        return local if frame.f_code.co_filename == pausing.__file__ else None

    sys.settrace(trace)
    try:
        pause.end_in_time() if ends == "by itself" else pause.end()
    finally:
        sys.settrace(None)
    if ends == "by itself":
        assert pause.until == until, f"at line {point}"
    else:
        # It came before the end, or after it.
        assert pause.until in (0.0, until) and pause.is_on is bool(pause.until)
    return bool(until)
