"""Waiting for a slot: order, opening, timeouts, giving up."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.calls import counting
from django_db_pooling.pool import CheckoutTimeout
from django_db_pooling.pool import growth as growth_module
from django_db_pooling.pool import queue as queue_module
from django_db_pooling.pool.stats import Closed
from django_db_pooling.process import wakeup as wakeup_module
from tests.unit.fakes import PASSED, SOON, Caller, Clock, FakePool, Interrupt, StrikingLimits, queue_up, until

pytestmark = pytest.mark.usefixtures("no_second_look")


# -- the queue ------------------------------------------------------------------------------


def test_a_look_costs_the_same_however_many_wait_while_a_session_is_left_at_rest() -> None:
    """Each who waits looks twice a second: all of them at each other would be nothing else."""
    pool = FakePool(size=1, max_outstanding=1)
    pool.rest(pool.take_now())
    calls = []
    for callers in 1, 20:
        queue_up(pool, callers)
        with counting() as count:
            pool.queue.match()
        calls.append(count.python + count.c)
    assert calls[0] == calls[1]
    pool.recycle()


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
    pool.discard(slot, Closed.BROKEN)
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
    monkeypatch.setattr(growth_module, "STALLED", 0.02)
    monkeypatch.setattr(wakeup_module, "RECHECK_INTERVAL", 0.02)
    pool = FakePool(size=5, max_outstanding=5)
    stalled = [pool.checkout(), pool.checkout()]
    third = pool.checkout(time.monotonic() + SOON)
    assert third.connection is None
    assert pool.snapshot().opening == len(stalled) + 1


def test_only_one_more_opens_when_both_have_stalled(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth_module, "STALLED", 0.5)
    monkeypatch.setattr(wakeup_module, "RECHECK_INTERVAL", 0.02)
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
    monkeypatch.setattr(growth_module, "STALLED", 0.02)
    monkeypatch.setattr(wakeup_module, "RECHECK_INTERVAL", 0.02)
    pool = FakePool(size=3, max_outstanding=3)
    held = [pool.take_now() for _ in range(3)]
    callers = queue_up(pool, 3)
    for slot in held:
        pool.discard(slot, Closed.BROKEN)
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
    # It came a moment later.
    assert 0.04 <= caught.value.waited < 2
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
    pool.growth.failed(ConnectionRefusedError("nobody is there"), clock.now)
    clock.now += 2
    late = pool.take(PASSED, "the late one")
    pool.growth.failed(ConnectionRefusedError("nobody is there"), clock.now)
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


def test_a_burst_on_a_cold_pool_waits_for_its_turn_and_nobody_is_refused() -> None:
    """Fifty come at once, two may open at a time, and there is room for all: they don't wait for somebody."""
    pool = FakePool(size=100, max_outstanding=100, max_waiting=5)
    all_are_here = threading.Event()

    def request() -> None:
        slot = pool.checkout(None, "request")
        assert all_are_here.wait(SOON)
        pool.give(slot if slot.connection else pool.fill(slot))

    callers = [Caller(request) for _ in range(50)]
    until(lambda: pool.waiting == 48)
    all_are_here.set()
    for caller in callers:
        caller.result()
    assert pool.snapshot().timeouts == 0


def test_of_a_burst_those_are_refused_for_whom_there_is_no_room() -> None:
    pool = FakePool(size=10, max_outstanding=10, max_waiting=5)
    opening = [pool.checkout(), pool.checkout()]
    queue_up(pool, 8 + 5)
    with pytest.raises(CheckoutTimeout, match="MAX_WAITING"):
        pool.checkout(None)
    for slot in opening:
        pool.discard(slot)


class Gate:
    """Stops whoever comes first until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def pass_through(self) -> None:
        if not self.reached.is_set():
            self.reached.set()
            assert self.opened.wait(SOON)


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
            until(lambda: len(pool.queue.match._requests) == 1)
            super().clear()
            # As long as a wrong refusal takes; without one, the caller waits for the next round.
            second[0].join(0.05)

    pool = FakePool(size=10, max_outstanding=10)
    pool.queue.match._claim = Claim()
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
    pool.queue.match._requests.append(None)
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
        monkeypatch.setattr(wakeup_module, "threading", SimpleNamespace(Lock=StrikingLock))

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

    class LateWaiter(queue_module.Waiter):
        """One that is claimed, and served when the gate is open."""

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "is_fresh" and hasattr(self, "is_fresh"):
                gate.pass_through()
            super().__setattr__(name, value)

    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    monkeypatch.setattr(queue_module, "Waiter", LateWaiter)
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

    class LateWaiter(queue_module.Waiter):
        """One that is claimed, and served when the gate is open."""

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "is_fresh" and hasattr(self, "is_fresh"):
                gate.pass_through()
            super().__setattr__(name, value)

    monkeypatch.setattr(queue_module, "Waiter", LateWaiter)
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
    sleep = wakeup_module.ThreadSleepers.sleep

    def interrupted(sleepers: wakeup_module.ThreadSleepers, sleeper: Any, seconds: float) -> None:
        sleep(sleepers, sleeper, seconds)
        raise Interrupt

    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    monkeypatch.setattr(wakeup_module.ThreadSleepers, "sleep", interrupted)
    (waiter,) = queue_up(pool, 1)
    started = time.monotonic()
    pool.give(slot)
    with pytest.raises(Interrupt):
        waiter.result()
    assert time.monotonic() - started < 0.9
    assert (pool.snapshot().idle, pool.snapshot().reclaimed) == (1, 0)
