"""The pool alone: no Django, no server, a driver that counts."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from django_db_pooling import pool as pool_module
from django_db_pooling import waiter as waiter_module
from django_db_pooling.pool import CheckoutTimeout
from tests.unit.fakes import PASSED, SOON, Caller, Clock, FakePool, Interrupt, queue_up, until

pytestmark = pytest.mark.usefixtures("no_second_look")


# -- taking ---------------------------------------------------------------------------------


def test_the_newest_idle_connection_is_handed_out_first() -> None:
    pool = FakePool()
    first, second, third = pool.open_idle(3)
    taken = [pool.take_now() for _ in range(3)]
    assert [slot.connection for slot in taken] == [third, second, first]


def test_a_bare_slot_is_handed_out_when_nothing_is_idle() -> None:
    pool = FakePool()
    slot = pool.checkout()
    assert slot.connection is None
    assert (pool.snapshot().opening, pool.snapshot().in_use, len(pool)) == (1, 0, 1)
    pool.fill(slot)
    assert (pool.snapshot().opening, pool.snapshot().in_use, len(pool)) == (0, 1, 1)


def test_an_idle_connection_is_preferred_to_a_bare_slot() -> None:
    pool = FakePool()
    (connection,) = pool.open_idle(1)
    assert pool.take_now().connection is connection


def test_there_are_never_more_slots_than_max_outstanding() -> None:
    pool = FakePool(size=1, max_outstanding=3)
    held = [pool.take_now() for _ in range(3)]
    with pytest.raises(CheckoutTimeout):
        pool.checkout(PASSED)
    assert len(pool) == len(held) == 3


def test_without_max_outstanding_there_is_no_limit() -> None:
    pool = FakePool(size=1, max_outstanding=None)
    held = [pool.take_now() for _ in range(200)]
    assert len(pool) == len(held) == 200


def test_many_threads_never_open_more_than_max_outstanding() -> None:
    """Forty threads leave a barrier together and take at once: only five may find room."""
    pool = FakePool(size=5, max_outstanding=5)
    barrier = threading.Barrier(40)

    def rush() -> object:
        barrier.wait(SOON)
        try:
            return pool.take_now()
        except CheckoutTimeout:
            return None

    callers = [Caller(rush) for _ in range(40)]
    held = [slot for caller in callers if (slot := caller.result()) is not None]
    assert len(held) == len(pool) == 5
    assert pool.driver.peak == 5


# -- the queue ------------------------------------------------------------------------------


def test_waiters_are_served_in_their_order() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    served: list[str] = []

    def wait_and_pass_on(_: object, name: str) -> None:
        mine = pool.take(None, name)
        served.append(name)
        pool.give(mine)

    callers = queue_up(pool, 8, wait_and_pass_on)
    pool.give(slot)
    for caller in callers:
        caller.result()
    assert served == [f"caller {number}" for number in range(8)]


def test_a_newcomer_does_not_overtake_a_waiter() -> None:
    """The connection comes back while one waits; a caller that arrives then must go behind it."""
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    (waiter,) = queue_up(pool, 1)
    pool.give(slot)
    with pytest.raises(CheckoutTimeout):
        pool.checkout(PASSED)
    assert waiter.result().connection is slot.connection


def test_a_returned_connection_wakes_the_oldest_waiter() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    oldest, *others = queue_up(pool, 3)
    pool.give(slot)
    assert oldest.result() is slot
    assert pool.waiting == 2
    for caller in others:
        pool.checkin(slot)
        slot = caller.result()


def test_two_returned_in_one_instant_wake_two_waiters() -> None:
    """Both are given back before either waiter has had a chance to run."""
    pool = FakePool(size=2, max_outstanding=2)
    slots = [pool.take_now(), pool.take_now()]
    callers = queue_up(pool, 2)
    for slot in slots:
        pool.give(slot)
    assert [caller.result() for caller in callers] == slots


def test_a_connection_that_dies_in_use_wakes_the_oldest_waiter() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    oldest, other = queue_up(pool, 2)
    pool.discard(slot, broken=True)
    bare = oldest.result()
    assert bare.connection is None
    assert other.is_alive()
    pool.discard(bare)
    other.result()


def test_a_connection_that_is_closed_wakes_the_oldest_waiter() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    (waiter,) = queue_up(pool, 1)
    pool.close(slot)
    assert waiter.result().connection is None


def test_a_failed_open_wakes_the_oldest_waiter() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.checkout()
    (waiter,) = queue_up(pool, 1)
    pool.open_failed(slot, OSError("refused"))
    bare = waiter.result()
    assert (bare.connection, len(pool)) == (None, 1)


def test_a_larger_cap_wakes_waiters() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    callers = queue_up(pool, 3)
    pool.resize(FakePool(size=1, max_outstanding=3).limits)
    served = [caller.result() for caller in callers[:2]]
    assert len(pool) == 3
    assert callers[2].is_alive()
    pool.give(slot)
    callers[2].result()
    assert len(served) == 2


# -- opening --------------------------------------------------------------------------------


def test_two_open_at_a_time_and_the_third_takes_its_turn() -> None:
    pool = FakePool(size=5, max_outstanding=5)
    first, second = pool.checkout(), pool.checkout()
    (third,) = queue_up(pool, 1)
    assert third.is_alive()
    pool.fill(first)
    assert third.result().connection is None
    assert second.connection is None


def test_a_third_takes_a_returned_connection_while_two_are_opening() -> None:
    pool = FakePool(size=5, max_outstanding=5)
    slot = pool.take_now()
    opening = [pool.checkout(), pool.checkout()]
    (third,) = queue_up(pool, 1)
    pool.give(slot)
    assert third.result() is slot
    assert len(opening) == 2


def test_a_third_opens_when_both_have_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "STALLED", 0.02)
    monkeypatch.setattr(pool_module, "LOOK_AROUND", 0.02)
    pool = FakePool(size=5, max_outstanding=5)
    stalled = [pool.checkout(), pool.checkout()]
    third = pool.checkout(time.monotonic() + SOON)
    assert third.connection is None
    assert pool.snapshot().opening == len(stalled) + 1


def test_only_one_more_opens_when_both_have_stalled(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "STALLED", 0.5)
    monkeypatch.setattr(pool_module, "LOOK_AROUND", 0.02)
    pool = FakePool(size=9, max_outstanding=9)
    first, second = pool.checkout(), pool.checkout()
    callers = queue_up(pool, 2)
    clock.now += 0.6
    third = callers[0].result()
    pool.maintain()
    assert callers[1].is_alive()
    for slot in (first, second, third):
        pool.fill(slot)
    callers[1].result()


def test_a_waiter_that_came_before_anybody_opened_sees_them_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three wait at the cap, where nobody is opening. Then the server dies with all connections:
    two of them open and stall. The third, which went to sleep before, has to notice.
    """
    monkeypatch.setattr(pool_module, "STALLED", 0.02)
    monkeypatch.setattr(pool_module, "LOOK_AROUND", 0.02)
    pool = FakePool(size=3, max_outstanding=3)
    held = [pool.take_now() for _ in range(3)]
    callers = queue_up(pool, 3)
    for slot in held:
        pool.discard(slot, broken=True)
    stalled = [callers[0].result(), callers[1].result()]
    assert callers[2].result(2.0).connection is None
    assert len(stalled) == 2


def test_a_burst_of_fifty_ends_with_a_handful_of_connections() -> None:
    """All fifty come before the first connection is there, and further ones take until all others
    are served: everybody else makes do with what comes back.
    """
    pool = FakePool(size=20, max_outstanding=20)
    all_are_here = threading.Event()

    def request() -> None:
        slot = pool.checkout(None, "request")
        if slot.connection is None:
            if not all_are_here.is_set():
                assert all_are_here.wait(SOON)
            else:
                until(lambda: pool.waiting == 0)
            pool.fill(slot)
        pool.give(slot)

    callers = [Caller(request) for _ in range(50)]
    until(lambda: pool.waiting == 48)
    all_are_here.set()
    for caller in callers:
        caller.result()
    assert pool.driver.made <= 4
    assert len(pool) == len(pool.driver.open) == pool.snapshot().idle


# -- timeouts -------------------------------------------------------------------------------


def test_a_deadline_is_kept() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    held = pool.take_now()
    started = time.monotonic()
    with pytest.raises(CheckoutTimeout) as caught:
        pool.checkout(started + 0.05)
    assert 0.05 <= time.monotonic() - started < 2
    assert 0.05 <= caught.value.waited < 2
    assert pool.waiting == 0
    assert pool.snapshot().timeouts == 1
    assert held.connection is not None


def test_the_error_tells_the_pool_the_counts_the_longest_holder_and_the_last_connect_error(
    clock: Clock,
) -> None:
    pool = FakePool(size=1, max_outstanding=3)
    pool.open_failed(pool.checkout(PASSED), ConnectionRefusedError("nobody is there"))
    clock.now += 1
    early = pool.take_now("the early one")
    pool._last_open_error = (clock.now, "ConnectionRefusedError: nobody is there")
    clock.now += 2
    late = pool.take(PASSED, "the late one")
    pool._last_open_error = (clock.now, "ConnectionRefusedError: nobody is there")
    opening = pool.checkout(PASSED, "the opening one")
    clock.now += 10.25
    with pytest.raises(CheckoutTimeout) as caught:
        pool.checkout(PASSED)
    message = str(caught.value)
    assert "'default'" in message
    assert "2 in use, 0 idle, 1 opening, 1 waiting, max_outstanding 3" in message
    assert "Held longest: 12.2 s by the early one" in message
    assert "Last connect error, 10.2 s ago: ConnectionRefusedError: nobody is there" in message
    assert early.connection and late.connection and opening


def test_a_connect_error_is_told_until_a_connection_opens(clock: Clock) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    pool.open_failed(pool.checkout(PASSED), ConnectionRefusedError("nobody is there"))
    held = pool.checkout(PASSED)
    with pytest.raises(CheckoutTimeout, match="nobody is there"):
        pool.checkout(PASSED)
    pool.fill(held)
    with pytest.raises(CheckoutTimeout) as caught:
        pool.checkout(PASSED)
    assert "nobody is there" not in str(caught.value)


def test_an_interrupted_connect_is_not_told_as_a_connect_error() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    pool.open_failed(pool.checkout(PASSED), Interrupt("killed"))
    held = pool.take_now()
    with pytest.raises(CheckoutTimeout) as caught:
        pool.checkout(PASSED)
    assert "killed" not in str(caught.value)
    assert held.connection is not None


def test_a_waiter_is_told_how_long_it_waited(clock: Clock) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    held = pool.take_now()
    caller = Caller(pool.checkout, clock.now + 0.01)
    until(lambda: pool.waiting == 1)
    clock.now += 7
    with pytest.raises(CheckoutTimeout, match=re.escape("waited 7.0 s")) as caught:
        caller.result()
    assert caught.value.waited == 7
    assert held.connection is not None


def test_a_passed_deadline_never_waits() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    held = pool.take_now()
    with pytest.raises(CheckoutTimeout) as caught:
        pool.checkout(PASSED)
    assert caught.value.waited == 0
    assert pool.waiting == 0
    pool.give(held)
    assert pool.take_now() is held


def test_a_passed_deadline_takes_a_free_slot_even_while_two_are_opening() -> None:
    pool = FakePool(size=5, max_outstanding=5)
    opening = [pool.checkout(), pool.checkout()]
    assert pool.checkout(PASSED).connection is None
    assert len(opening) == 2


def test_a_passed_deadline_goes_on_from_dead_connections_to_a_free_slot() -> None:
    pool = FakePool(size=5, max_outstanding=5)
    for connection in pool.open_idle(5):
        connection.looks = False
    assert pool.checkout(PASSED).connection is None
    assert pool.driver.open == {}


def test_more_than_max_waiting_are_refused_at_once() -> None:
    pool = FakePool(size=1, max_outstanding=1, max_waiting=2)
    slot = pool.take_now()
    callers = queue_up(pool, 2)
    with pytest.raises(CheckoutTimeout, match="MAX_WAITING.*2.*wait") as caught:
        pool.checkout(None)
    assert caught.value.waited == 0
    assert pool.waiting == 2
    for caller in callers:
        pool.checkin(slot)
        slot = caller.result()


def test_with_max_waiting_0_a_free_slot_is_taken() -> None:
    pool = FakePool(size=1, max_outstanding=1, max_waiting=0)
    slot = pool.take()
    with pytest.raises(CheckoutTimeout, match="MAX_WAITING"):
        pool.checkout(None)
    pool.give(slot)
    assert pool.take() is slot


class Gate:
    """Stops whoever comes first until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def pass_through(self) -> None:
        if not self.reached.is_set():
            self.reached.set()
            assert self.opened.wait(SOON)


class StrikingLimits:
    """Limits that call a function whenever the pool looks at its cap: another thread at that moment."""

    def __init__(self, pool: FakePool, strike: Callable[[], object]) -> None:
        self._limits, self._strike = pool.limits, strike

    def __getattr__(self, name: str) -> Any:
        if name == "max_outstanding":
            self._strike()
        return getattr(self._limits, name)


def test_max_waiting_refuses_nobody_because_another_thread_is_just_matching() -> None:
    """A thread hands out slots; a second one finds that under way, and its waiter not served yet.
    Nine slots are free, so it isn't one too many.
    """
    pool = FakePool(size=10, max_outstanding=10, max_waiting=0)
    gate = Gate()
    pool.limits = StrikingLimits(pool, gate.pass_through)  # type: ignore[assignment]
    first = Caller(pool.checkout)
    assert gate.reached.wait(SOON)
    second = Caller(pool.checkout)
    until(lambda: pool.waiting == 2 or not second.is_alive())
    gate.opened.set()
    first_slot = first.result()
    assert second.result() is not first_slot


def test_a_passed_deadline_waits_for_a_match_that_another_thread_is_in() -> None:
    pool = FakePool(size=10, max_outstanding=10)
    gate = Gate()
    pool.limits = StrikingLimits(pool, gate.pass_through)  # type: ignore[assignment]
    first = Caller(pool.checkout, PASSED)
    assert gate.reached.wait(SOON)
    second = Caller(pool.checkout, PASSED)
    until(lambda: pool.waiting == 2)
    gate.opened.set()
    first_slot = first.result()
    assert second.result() is not first_slot


def test_a_passed_deadline_is_not_refused_between_two_rounds_of_a_match() -> None:
    """A thread has ended its run and given the claim up, but not yet read the word that another
    caller left: for an instant no match is running, although one is still to come.
    """
    second: list[Caller] = []

    class Claim(dict[None, object]):
        def clear(self) -> None:
            if second:
                super().clear()
                return
            second.append(Caller(pool.checkout, PASSED))
            until(lambda: len(pool._match._news) == 1)
            super().clear()
            # As long as a wrong refusal takes; without one, the caller waits for the next round.
            second[0].join(0.05)

    pool = FakePool(size=10, max_outstanding=10)
    pool._match._claim = Claim()
    slot = pool.checkout(PASSED)
    assert second[0].result() is not slot


def test_a_deadline_is_kept_even_if_a_word_was_left_that_nobody_heard() -> None:
    """A thread was interrupted between leaving word and going to see: no match is running, and none
    will be before somebody calls for one.
    """
    pool = FakePool(size=1, max_outstanding=1)
    held = pool.take_now()
    caller = Caller(pool.checkout, time.monotonic() + 0.1)
    until(lambda: pool.waiting == 1)
    pool._match._news.append(None)
    with pytest.raises(CheckoutTimeout):
        caller.result(2.0)
    pool.give(held)
    assert len(pool) == 1


# -- giving up ------------------------------------------------------------------------------


class StrikingLock:
    """A lock in whose blocking acquire something happens, the first time and perhaps later."""

    strike: Callable[[int], bool | None]
    times = 0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.release = self._lock.release

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if timeout > 0:
            StrikingLock.times += 1
            answer = StrikingLock.strike(StrikingLock.times)
            if answer is not None:
                return answer
        return self._lock.acquire(blocking, timeout)


@pytest.fixture
def strike_in_wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], bool | None]], None]:
    def install(strike: Callable[[int], bool | None]) -> None:
        monkeypatch.setattr(StrikingLock, "strike", staticmethod(strike), raising=False)
        monkeypatch.setattr(StrikingLock, "times", 0)
        monkeypatch.setattr(waiter_module, "threading", SimpleNamespace(Lock=StrikingLock))

    return install


def test_a_waiter_that_gives_up_leaves_the_queue(strike_in_wait: Any) -> None:
    def strike(_: int) -> None:
        raise Interrupt

    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    strike_in_wait(strike)
    with pytest.raises(Interrupt):
        pool.checkout()
    assert pool.waiting == 0
    pool.give(slot)
    assert (len(pool), pool.snapshot().idle) == (1, 1)


def test_a_waiter_that_gives_up_when_it_is_served_gives_the_connection_back(strike_in_wait: Any) -> None:
    """The connection is put into the waiter's hands, and the exception strikes before it wakes."""
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()

    def strike(times: int) -> None:
        if times == 1:
            pool.give(slot)
            assert (pool.waiting, pool.snapshot().idle) == (0, 0)
            raise Interrupt

    strike_in_wait(strike)
    with pytest.raises(Interrupt):
        pool.checkout()
    assert (len(pool), pool.snapshot().idle, pool.snapshot().reclaimed) == (1, 1, 0)
    assert pool.take_now() is slot


def test_a_waiter_that_gives_up_when_it_is_served_wakes_the_next(strike_in_wait: Any) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    callers: list[Caller] = []

    def strike(times: int) -> None:
        if times == 1:
            callers.append(Caller(pool.checkout))
            until(lambda: pool.waiting == 2)
            pool.give(slot)
            raise Interrupt

    strike_in_wait(strike)
    with pytest.raises(Interrupt):
        pool.checkout()
    assert callers[0].result() is slot


def test_a_waiter_that_gives_up_with_a_bare_slot_frees_it(strike_in_wait: Any) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()

    def strike(times: int) -> None:
        if times == 1:
            pool.discard(slot)
            assert len(pool) == 1
            raise Interrupt

    strike_in_wait(strike)
    with pytest.raises(Interrupt):
        pool.checkout()
    assert len(pool) == 0
    assert pool.snapshot().opening == 0


def test_a_waiter_that_gives_up_waits_for_what_is_on_its_way(
    strike_in_wait: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread has claimed the waiter and not served it yet, when the exception strikes: the
    connection has to be awaited and put back.
    """
    gate = Gate()
    serve = pool_module.Waiter.serve

    def serve_late(waiter: pool_module.Waiter, slot: Any) -> None:
        gate.pass_through()
        serve(waiter, slot)

    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    monkeypatch.setattr(pool_module.Waiter, "serve", serve_late)
    giver: list[Caller] = []

    def strike(times: int) -> None:
        if times == 1:
            giver.append(Caller(pool.give, slot))
            assert gate.reached.wait(SOON)
            raise Interrupt
        gate.opened.set()

    strike_in_wait(strike)
    with pytest.raises(Interrupt):
        pool.checkout()
    giver[0].result()
    assert (len(pool), pool.snapshot().idle) == (1, 1)


def test_what_comes_too_late_for_a_waiter_that_gave_up_is_reclaimed(
    strike_in_wait: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, but the other thread takes so long that the waiter doesn't wait for it any more."""
    pool = FakePool(size=1, max_outstanding=1)
    slots = [pool.take_now()]
    gate = Gate()
    serve = pool_module.Waiter.serve

    def serve_late(waiter: pool_module.Waiter, slot: Any) -> None:
        gate.pass_through()
        serve(waiter, slot)

    monkeypatch.setattr(pool_module.Waiter, "serve", serve_late)
    giver: list[Caller] = []

    def strike(times: int) -> bool:
        if times == 1:
            giver.append(Caller(lambda: pool.give(slots.pop())))
            assert gate.reached.wait(SOON)
            raise Interrupt
        return False

    strike_in_wait(strike)
    with pytest.raises(Interrupt):
        pool.checkout()
    gate.opened.set()
    giver[0].result()
    until(lambda: len(pool) == 0)
    assert pool.snapshot().reclaimed == 1
    assert pool.driver.open == {}


def test_a_waiter_that_is_interrupted_right_after_it_woke_gives_the_connection_back_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has been served and has seen it, and the exception strikes before it takes what is there:
    nothing more is on its way that it would have to wait for.
    """
    take = pool_module.Waiter.take

    def interrupted(_: pool_module.Waiter) -> None:
        monkeypatch.setattr(pool_module.Waiter, "take", take)
        raise Interrupt

    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    (waiter,) = queue_up(pool, 1)
    monkeypatch.setattr(pool_module.Waiter, "take", interrupted)
    started = time.monotonic()
    pool.give(slot)
    with pytest.raises(Interrupt):
        waiter.result()
    assert time.monotonic() - started < 0.9
    assert (pool.snapshot().idle, pool.snapshot().reclaimed) == (1, 0)


# -- freeing once ---------------------------------------------------------------------------


def test_discarding_twice_frees_and_counts_once() -> None:
    pool = FakePool(size=2, max_outstanding=2)
    slot, other = pool.take_now(), pool.take_now()
    pool.discard(slot, broken=True)
    pool.discard(slot, broken=True)
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


def test_a_dropped_slot_wakes_a_waiter() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slots = [pool.take_now()]
    (waiter,) = queue_up(pool, 1)
    slots.clear()
    assert waiter.result().connection is None


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
        assert not pool.keeps(slot)
        pool.give(slot)
    for slot in slots[2:]:
        assert pool.keeps(slot)
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
        kept.append(pool.keeps(slot))
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


# -- ages -----------------------------------------------------------------------------------


def test_an_age_is_cut_by_a_share_that_is_fixed_at_birth(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "random", SimpleNamespace(random=lambda: 0.5))
    pool = FakePool(max_age=1000.0)
    slot = pool.take_now()
    monkeypatch.setattr(pool_module, "random", SimpleNamespace(random=lambda: 0.0))
    clock.now += 949
    assert pool.keeps(slot)
    clock.now += 2
    assert not pool.keeps(slot)


@pytest.mark.parametrize("luck", [0.0, 0.999999])
def test_an_age_is_cut_by_a_tenth_at_most(luck: float, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "random", SimpleNamespace(random=lambda: luck))
    pool = FakePool(max_age=1000.0)
    slot = pool.take_now()
    clock.now += 899.9
    assert pool.keeps(slot)
    clock.now += 100.2
    assert not pool.keeps(slot)


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
    assert pool.keeps(slot)


def test_with_max_age_0_no_connection_is_used_twice(clock: Clock) -> None:
    pool = FakePool(max_age=0)
    slot = pool.take_now()
    assert not pool.keeps(slot)


# -- recycling and draining -----------------------------------------------------------------


def test_recycle_closes_idle_connections_and_those_in_use_as_they_come_back() -> None:
    pool = FakePool()
    used = pool.take_now()
    (idle,) = pool.open_idle(1)
    pool.recycle()
    assert [number for number, _ in pool.driver.closed] == [idle.number]
    assert pool.holds_recycled([])
    assert not pool.holds_recycled([used])
    assert not pool.keeps(used)
    fresh = pool.take_now()
    assert pool.keeps(fresh)
    pool.give(used)
    assert not pool.holds_recycled([])


def test_a_connection_that_was_being_opened_when_the_pool_was_recycled_does_not_stay() -> None:
    pool = FakePool()
    opening = pool.checkout()
    pool.recycle()
    pool.fill(opening)
    assert not pool.keeps(opening)


def test_a_recycled_connection_is_not_handed_out_even_if_it_became_idle() -> None:
    """It is recycled in the moment between the look whether it is kept, and its return."""
    pool = FakePool()
    slot = pool.take_now()
    assert pool.keeps(slot)
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
    assert pool.keeps(used)


def test_a_closing_pool_keeps_nothing() -> None:
    pool = FakePool()
    used = pool.take_now()
    pool.open_idle(1)
    pool.closing = True
    assert not pool.keeps(used)
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
    clock.now += pool_module.EXCESS_STAYS - 1
    pool.maintain()
    assert pool.snapshot().idle == 5
    clock.now += 2
    pool.maintain()
    assert pool.idle_connections == connections[3:]


def test_the_excess_that_was_used_lately_stays(clock: Clock) -> None:
    pool = FakePool(size=1, max_outstanding=3)
    pool.open_idle(2)
    clock.now += pool_module.EXCESS_STAYS + 1
    pool.give(pool.take_now())
    newest = pool.idle_connections[-1]
    pool.maintain()
    assert pool.idle_connections == [newest]


def test_idle_connections_are_closed_before_the_server_would(clock: Clock) -> None:
    pool = FakePool(idle_timeout=None, max_age=None)
    pool.server_timeout = 60.0
    pool.open_idle(2)
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
    pool._idle[0].expires_at = 0.0
    pool.driver.used_looks = looks
    taken: list[Any] = []
    pool.driver.at_close = lambda: taken.append(pool.take_now("another thread"))
    pool.maintain()
    assert [slot.connection for slot in taken] == [healthy]
    assert [number for number, _ in pool.driver.closed] == [old.number]
    assert pool.snapshot().broken == 0
    assert not pool.doubts(taken[0])


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
    monkeypatch.setattr(pool_module, "STALLED", 0.5)
    pool = FakePool(size=5, max_outstanding=5)
    held = [pool.checkout(), pool.checkout()]
    monkeypatch.setattr(pool_module, "STALLED", 3600.0)
    (waiter,) = queue_up(pool, 1)
    monkeypatch.setattr(pool_module, "STALLED", 0.5)
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


# -- homes ----------------------------------------------------------------------------------


def test_a_connection_of_another_hub_is_not_handed_out() -> None:
    pool = FakePool(size=2, max_outstanding=2)
    (foreign,) = pool.open_idle(1)
    pool.driver.here = object()
    assert pool.checkout(PASSED).connection is None
    assert pool.idle_connections == [foreign]


def test_a_connection_of_another_hub_is_dropped_when_its_place_is_needed() -> None:
    pool = FakePool(size=2, max_outstanding=2)
    oldest, newest = pool.open_idle(2)
    pool.driver.here = object()
    assert pool.checkout(PASSED).connection is None
    assert pool.driver.dropped == [oldest.number]
    assert pool.driver.closed == []
    assert pool.idle_connections == [newest]


def test_an_older_connection_of_this_hub_is_preferred_to_a_newer_one_of_another() -> None:
    pool = FakePool(size=2, max_outstanding=2)
    here = pool.driver.here
    (mine,) = pool.open_idle(1)
    pool.driver.here = object()
    slot = pool.take_now()
    pool.give(slot)
    pool.driver.here = here
    taken = pool.take_now()
    assert taken.connection is mine
    assert len(pool.driver.open) == 2


def test_a_place_is_made_for_a_waiter_of_another_hub_when_a_connection_comes_back() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    here = pool.driver.here
    pool.driver.here = object()
    (waiter,) = queue_up(pool, 1)
    pool.driver.here = here
    pool.give(slot)
    bare = waiter.result()
    assert bare.connection is None and bare.home is not here
    assert len(pool) == 1


def test_connections_of_another_hub_are_dropped_and_not_closed_by_drain() -> None:
    pool = FakePool()
    pool.open_idle(2)
    pool.driver.here = object()
    pool.drain()
    assert (len(pool.driver.dropped), pool.driver.closed) == (2, [])


def test_a_connection_of_another_hub_that_comes_back_at_the_wrong_moment_stays() -> None:
    """A caller has seen a connection of its own hub on top. Before it pops that, one of another hub
    is put there: it can't be used here, nor be closed from here, and nothing is wrong with it.
    """
    pool = FakePool(size=2, max_outstanding=2)
    home, other = pool.driver.here, object()
    pool.driver.here = other
    foreign = pool.take_now()
    pool.driver.here = home
    (mine,) = pool.open_idle(1)
    returned = [foreign]

    def home_of_caller() -> object:
        if returned:
            pool.checkin(returned.pop())
        return home

    pool.driver.home = home_of_caller  # type: ignore[method-assign]
    slot = pool.checkout(PASSED)
    assert slot.connection is mine
    assert pool.driver.closed == []
    assert pool.idle_connections == [foreign.connection]


def test_a_look_at_a_connection_of_another_hub_hides_it_from_nobody() -> None:
    """A caller looks at the newest idle connection and finds it to be of another hub. While it
    looks, a caller of that hub, which doesn't want to wait, comes for it.
    """
    pool = FakePool(size=1, max_outstanding=1)
    (connection,) = pool.open_idle(1)
    home, other = pool.driver.here, object()
    callers: list[Caller] = []

    def home_of_caller() -> object:
        if threading.current_thread() is not threading.main_thread():
            return home
        if not callers:
            callers.append(Caller(pool.checkout, PASSED))
            callers[0].join(SOON)
        return other

    pool.driver.home = home_of_caller  # type: ignore[method-assign]
    with contextlib.suppress(CheckoutTimeout):
        pool.checkout(PASSED)
    assert callers[0].result().connection is connection


# -- doubt ----------------------------------------------------------------------------------


def test_a_fresh_connection_is_not_doubted(clock: Clock) -> None:
    pool = FakePool()
    assert not pool.doubts(pool.take_now())


def test_after_a_death_everything_opened_before_is_doubted_until_it_is_proved(clock: Clock) -> None:
    pool = FakePool()
    before = pool.take_now()
    clock.now += 1
    pool.death_seen()
    clock.now += 1
    after = pool.take_now()
    assert pool.doubts(before)
    assert not pool.doubts(after)
    pool.proved(before)
    assert not pool.doubts(before)


def test_a_dead_idle_connection_makes_the_others_suspect_and_counts_as_broken(clock: Clock) -> None:
    pool = FakePool()
    other, dead = pool.open_idle(2)
    dead.looks = False
    clock.now += 1
    slot = pool.take_now()
    assert slot.connection is other
    assert pool.doubts(slot)
    assert pool.snapshot().broken == 1


def test_a_connection_that_only_a_question_can_tell_about_is_handed_out_and_doubted() -> None:
    pool = FakePool()
    odd, good = pool.open_idle(2)
    odd.looks = None
    slots = [pool.take_now(), pool.take_now()]
    assert [pool.doubts(slot) for slot in slots] == [False, True]
    pool.proved(slots[1])
    assert not pool.doubts(slots[1])
    pool.doubt(slots[0])
    assert pool.doubts(slots[0])
    assert pool.snapshot().broken == 0


# -- drivers that fail ----------------------------------------------------------------------


def test_a_drop_that_raises_is_logged_and_the_slot_is_free(caplog: pytest.LogCaptureFixture) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    pool.driver.drop_error = OSError("no such descriptor")
    pool.discard(slot)
    assert len(pool) == 0
    assert "dropping a connection failed" in caplog.text
    assert "no such descriptor" in caplog.text


def test_a_close_that_raises_is_told_in_debug_and_the_slot_is_free(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "django_db_pooling")
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    pool.driver.close_error = OSError("broken pipe")
    pool.close(slot)
    assert len(pool) == 0
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


def test_a_close_that_is_interrupted_frees_the_slot() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    (waiter,) = queue_up(pool, 1)
    pool.driver.close_error = Interrupt()
    with pytest.raises(Interrupt):
        pool.close(slot)
    assert waiter.result().connection is None


def test_a_waiter_that_is_interrupted_while_closing_what_it_got_loses_nothing() -> None:
    """It was served a dead connection, queues at the front again and closes that one: then it is killed."""
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    first, second = queue_up(pool, 2)
    slot.connection.looks = False
    pool.driver.close_error = Interrupt()
    pool.checkin(slot)
    with pytest.raises(Interrupt):
        first.result()
    assert second.result().connection is None
    del slot
    assert len(pool) == 0


def test_a_look_that_raises_loses_no_slot() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    pool.open_idle(1)

    def alive(_: object) -> bool:
        raise OSError("no such descriptor")

    pool.driver.alive = alive  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no such descriptor"):
        pool.checkout(PASSED)
    assert pool.checkout(PASSED).connection is None


def test_closing_waits_for_the_server_only_at_the_cap() -> None:
    pool = FakePool(size=2, max_outstanding=2)
    slots = [pool.take_now(), pool.take_now()]
    for slot in slots:
        pool.close(slot)
    assert [linger for _, linger in pool.driver.closed] == [pool_module.LINGER, 0.0]


# -- telling --------------------------------------------------------------------------------


def test_the_counts_of_the_moment_add_up(clock: Clock) -> None:
    pool = FakePool(size=4, max_outstanding=7)
    held = [pool.take_now() for _ in range(4)]
    for slot in held[:2]:
        pool.give(slot)
    opening = pool.checkout(PASSED), pool.take_now()
    assert opening[0].connection is not None
    pool.give(opening[0])
    bare = [pool.take_now() for _ in range(2)]
    bare.append(pool.checkout(PASSED))
    stats = pool.snapshot()
    assert stats.in_use + stats.idle + stats.opening == len(pool)
    assert (stats.alias, stats.size, stats.max_outstanding) == ("default", 4, 7)


def test_the_counters_add_up(clock: Clock) -> None:
    pool = FakePool(size=5, max_outstanding=5)
    pool.open_failed(pool.checkout(PASSED, "unlucky"), OSError())
    slots = [pool.take_now() for _ in range(4)]
    clock.now += 2
    pool.give(slots.pop())
    pool.close(slots.pop())
    pool.discard(slots.pop(), broken=True)
    slots.clear()
    stats = pool.snapshot()
    assert stats.checkouts == 5
    assert (stats.opened, stats.closed, stats.broken, stats.reclaimed) == (4, 3, 1, 1)
    assert stats.opened - stats.closed == stats.idle == 1
    assert stats.held_seconds == 8
    assert stats.wait_seconds == stats.longest_wait_seconds == 0


def test_a_connection_that_fails_while_it_is_set_up_counts_neither_as_opened_nor_as_closed() -> None:
    """Connected, and then the first statement on it fails: opened minus closed must stay what is open."""
    pool = FakePool()
    slot = pool.checkout()
    slot.connection = pool.driver.connect()
    pool.open_failed(slot, OSError("init_command failed"))
    stats = pool.snapshot()
    assert pool.driver.open == {}
    assert stats.opened - stats.closed == 0


def test_seconds_of_waiting_are_counted(clock: Clock) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    (first,) = queue_up(pool, 1)
    clock.now += 3
    pool.checkin(slot)
    slot = first.result()
    (second,) = queue_up(pool, 1)
    clock.now += 5
    pool.checkin(slot)
    second.result()
    stats = pool.snapshot()
    assert (stats.wait_seconds, stats.longest_wait_seconds) == (8, 5)


def test_idle_time_is_not_held_time(clock: Clock) -> None:
    pool = FakePool()
    pool.give(pool.take_now())
    clock.now += 100
    pool.drain()
    assert pool.snapshot().held_seconds == 0


def test_no_held_seconds_are_lost_when_two_let_go_at_once(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread drops a connection; where it asks for the time, another thread drops its own."""
    pool = FakePool()
    first, second = pool.take_now(), pool.take_now()
    clock.now += 10
    others = [second]

    def monotonic() -> float:
        if others:
            pool.discard(others.pop())
        return clock.now

    monkeypatch.setattr(clock, "monotonic", monotonic)
    pool.discard(first)
    assert pool.snapshot().held_seconds == 20


def test_no_close_is_lost_when_two_are_counted_at_once() -> None:
    """Where one thread looks whether its connection ever counted as opened, another drops its own."""
    pool = FakePool()
    first, second = pool.take_now(), pool.take_now()
    others = [second]

    class OpenedAt(float):
        def __bool__(self) -> bool:
            if others:
                pool.discard(others.pop())
            return True

    first.opened_at = OpenedAt(first.opened_at)
    pool.discard(first)
    assert pool.snapshot().closed == 2


def test_held_seconds_do_not_depend_on_whether_the_holder_has_a_name(clock: Clock) -> None:
    pool = FakePool()
    slots = [pool.fill(pool.checkout(PASSED)) for _ in range(2)]
    clock.now += 10
    pool.checkin(slots[0])
    pool.discard(slots[1])
    assert pool.snapshot().held_seconds == 20


def test_the_connections_of_the_pool_are_those_idle_and_in_use() -> None:
    pool = FakePool()
    used = pool.take_now()
    opening = pool.checkout()
    (idle,) = pool.open_idle(1)
    assert set(pool.connections()) == {used.connection, idle}
    assert opening.connection is None
