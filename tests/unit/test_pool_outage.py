"""The server is away: who tries again, who waits, who is turned away at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from django_db_pooling.pool import CheckoutTimeout, ServerAway
from django_db_pooling.pool.growth import MAX_PAUSE, MIN_PAUSE, REST, STALLED, Growth
from django_db_pooling.pool.queue import PROBE_WAIT
from django_db_pooling.pool.slot import Slot
from django_db_pooling.process import wakeup
from tests.unit.fakes import PASSED, Caller, Clock, FakePool, queue_up, until

REFUSED = ConnectionRefusedError("nobody is there")
RETRY = 5.0


def fail(pool: FakePool, slot: Slot, clock: Clock) -> float | None:
    """An attempt without a server; where it is the last one, the slot is given up."""
    pause = pool.retry_in(REFUSED, clock.now, None)
    if pause is None:
        pool.open_failed(slot, REFUSED)
    elif not pause:
        pool.discard(slot)
    return pause


def away(pool: FakePool, clock: Clock) -> None:
    """Bring an outage about, with one caller."""
    slot = pool.checkout(None)
    while (pause := fail(pool, slot, clock)) is not None:
        clock.now += pause
    assert pool.growth.outage


def hear(pool: FakePool, probe: Slot, callers: list[Caller], clock: Clock, is_back: bool) -> None:
    """The probe ends, and all who wait get what it finds."""
    if is_back:
        pool.fill(probe)
        for caller in callers:
            assert caller.result().connection is not None
    else:
        assert fail(pool, probe, clock) is None
        for caller in callers:
            with pytest.raises(ServerAway):
                caller.result()


# -- trying again --------------------------------------------------------------------------------------


def test_pauses_grow_and_end() -> None:
    growth, now, pauses = Growth(), 100.0, []
    while (pause := growth.found_no_server(now, now, RETRY)) is not None:
        growth.failed(REFUSED, now)
        assert not growth.outage
        assert 0 < pause <= MAX_PAUSE
        pauses.append(pause)
        now += pause
    assert growth.outage
    assert RETRY <= now - 100.0 <= RETRY + MAX_PAUSE
    assert pauses[0] <= MIN_PAUSE
    assert sum(pauses[:3]) < sum(pauses[-3:])
    assert len(pauses) < 40


def test_a_failure_of_long_ago_takes_no_patience_away() -> None:
    growth = Growth()
    assert growth.found_no_server(100.0, 100.0, RETRY)
    growth.failed(REFUSED, 100.0)
    assert growth.found_no_server(200.0, 200.0, RETRY)
    assert not growth.outage


def test_an_attempt_that_takes_long_counts_from_its_beginning() -> None:
    growth = Growth()
    assert growth.found_no_server(100.0, 100.0 + RETRY, RETRY) is None
    assert growth.outage


def test_while_nobody_is_there_one_at_a_time_tries() -> None:
    growth = Growth()
    growth.begin(1, 100.0)
    assert growth.may_begin(100.0, others=False)
    growth.found_no_server(100.0, 100.0, RETRY)
    assert not growth.may_begin(100.0, others=False)
    growth.end(1)
    assert growth.may_begin(100.0, others=False)
    growth.succeeded()
    growth.begin(2, 100.0)
    assert growth.may_begin(100.0, others=False)


def test_nobody_tries_again_beyond_the_deadline(clock: Clock) -> None:
    pool = FakePool(size=2, max_outstanding=2)
    slot = pool.checkout(None)
    assert pool.retry_in(REFUSED, clock.now, clock.now) is None
    pool.open_failed(slot, REFUSED)
    assert not pool.growth.outage


def test_without_retries_each_caller_gets_its_own_error(clock: Clock) -> None:
    pool = FakePool(size=4, max_outstanding=4, connect_retry=0.0)
    first, second = pool.checkout(None), pool.checkout(None)
    [waiting] = queue_up(pool, 1)
    for slot in (first, second):
        assert fail(pool, slot, clock) is None
    assert waiting.result().connection is None
    assert not pool.growth.away


# -- failing fast --------------------------------------------------------------------------------------


def test_when_patience_ends_all_who_wait_fail_at_once(clock: Clock, no_second_look: None) -> None:
    pool = FakePool(size=9, max_outstanding=9)
    first, second = pool.checkout(None), pool.checkout(None)
    callers = queue_up(pool, 5)
    assert fail(pool, first, clock)
    clock.now += RETRY
    assert fail(pool, second, clock) is None
    for caller in callers:
        with pytest.raises(ServerAway) as caught:
            caller.result()
        assert caught.value.error is REFUSED
    assert pool.waiting == 0
    assert len(pool) == 1


def test_afterwards_one_probes_and_the_others_fail_at_once(clock: Clock, no_second_look: None) -> None:
    pool = FakePool(size=9, max_outstanding=9)
    away(pool, clock)
    probe = pool.checkout(None)
    assert probe.connection is None
    clock.now += MIN_PAUSE
    callers = queue_up(pool, 3)
    clock.now += PROBE_WAIT
    for caller in callers:
        with pytest.raises(ServerAway):
            caller.result()
    assert fail(pool, probe, clock) is None
    assert len(pool) == 0
    probe = pool.checkout(None)
    pool.fill(probe)
    assert not pool.growth.away
    assert pool.take(None).connection is not None


@pytest.mark.parametrize("is_back", [True, False])
def test_long_after_an_outage_all_wait_for_what_the_probe_finds(
    is_back: bool, clock: Clock, no_second_look: None
) -> None:
    pool = FakePool(size=9, max_outstanding=9)
    away(pool, clock)
    clock.now += 2 * RETRY
    probe = pool.checkout(None)
    callers = queue_up(pool, 3, lambda *_: pool.take(None))
    hear(pool, probe, callers, clock, is_back)


def test_a_probe_at_the_cap_holds_nobody_up(clock: Clock, no_second_look: None) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    away(pool, clock)
    probe = pool.checkout(None)
    clock.now += MIN_PAUSE
    [caller] = queue_up(pool, 1)
    clock.now += PROBE_WAIT
    with pytest.raises(ServerAway):
        caller.result()
    pool.fill(probe)


@pytest.mark.parametrize("is_back", [True, False])
def test_who_comes_while_one_probes_hears_what_that_finds(
    is_back: bool, clock: Clock, no_second_look: None
) -> None:
    pool = FakePool(size=9, max_outstanding=9)
    away(pool, clock)
    clock.now += MAX_PAUSE / 2
    probe = pool.checkout(None)
    callers = queue_up(pool, 3, lambda *_: pool.take(None))
    clock.now += PROBE_WAIT / 2
    hear(pool, probe, callers, clock, is_back)


def test_who_may_not_wait_tries_for_itself(clock: Clock) -> None:
    pool = FakePool(size=9, max_outstanding=9)
    away(pool, clock)
    probe = pool.checkout(None)
    assert pool.checkout(PASSED).connection is None
    pool.discard(probe)


def test_an_idle_connection_is_handed_out_all_the_same(clock: Clock) -> None:
    pool = FakePool(size=9, max_outstanding=9)
    slot = pool.take_now()
    away_slot = pool.checkout(PASSED)
    pool.give(slot)
    pool.discard(away_slot)
    pool.growth.found_no_server(clock.now - RETRY, clock.now, RETRY)
    assert pool.checkout(None) is slot


# -- a server that takes nobody in, while what we have works -------------------------------------------


def test_who_has_a_connection_is_waited_for(clock: Clock, no_second_look: None) -> None:
    pool = FakePool(size=9, max_outstanding=9)
    working = pool.take_now()
    clock.now += 1
    slots = [pool.checkout(None), pool.checkout(None)]
    [waiting] = queue_up(pool, 1, lambda *_: pool.checkout(None))
    clock.now += RETRY
    for slot in slots:
        assert pool.retry_in(REFUSED, clock.now - RETRY, None) == 0
        pool.discard(slot)
    assert pool.growth.outage
    assert waiting.is_alive()
    pool.give(working)
    assert waiting.result() is working


def test_meanwhile_probes_are_few(clock: Clock) -> None:
    pool = FakePool(size=9, max_outstanding=9)
    working = pool.take_now()
    clock.now += 1
    assert fail(pool, pool.checkout(None), clock) == 0
    with pytest.raises(CheckoutTimeout):
        checkout_within(pool, clock, 0.1)
    clock.now += MAX_PAUSE
    assert pool.checkout(None).connection is None
    pool.give(working)


def checkout_within(pool: FakePool, clock: Clock, seconds: float) -> None:
    caller = Caller(pool.checkout, clock.now + seconds)
    until(lambda: pool.waiting == 1)
    clock.now += seconds
    caller.result()


def test_connections_from_before_a_death_are_not_waited_for(clock: Clock, no_second_look: None) -> None:
    pool = FakePool(size=9, max_outstanding=9)
    suspect = pool.take_now()
    clock.now += 1
    pool.suspect_all()
    away(pool, clock)
    probe = pool.checkout(None)
    with pytest.raises(ServerAway):
        Caller(pool.checkout, None).result()
    pool.fill(probe)
    pool.close(suspect)


def test_connections_of_other_hubs_are_not_waited_for(clock: Clock, no_second_look: None) -> None:
    pool = FakePool(size=9, max_outstanding=9)
    foreign = pool.take_now()
    clock.now += 1
    pool.driver.here = object()
    away(pool, clock)
    probe = pool.checkout(None)
    with pytest.raises(ServerAway):
        Caller(pool.checkout, None).result()
    pool.fill(probe)
    pool.give(foreign)


# -- no wake-up is lost, no slot either ----------------------------------------------------------------


@pytest.mark.parametrize("end", [lambda pool, slot: pool.fill(slot), lambda pool, slot: pool.discard(slot)])
def test_when_the_server_is_back_who_waits_is_served(
    end: Callable[[FakePool, Slot], object], clock: Clock, no_second_look: None
) -> None:
    pool = FakePool(size=9, max_outstanding=9)
    first, second = pool.checkout(None), pool.checkout(None)
    assert fail(pool, first, clock)
    callers = queue_up(pool, 3, lambda *_: pool.take(None))
    end(pool, second)
    pool.fill(first)
    for caller in callers:
        assert caller.result().connection is not None


def test_who_becomes_first_may_open_beside_openings_that_stall(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was first before gives up without a look for others."""
    monkeypatch.setattr(wakeup, "RECHECK_INTERVAL", 3600.0)
    pool = FakePool(size=9, max_outstanding=9)
    opening = [pool.checkout(None), pool.checkout(None)]
    hurried = Caller(pool.checkout, clock.now + 0.1)
    until(lambda: pool.waiting == 1)
    clock.now += 2 * STALLED
    patient = Caller(pool.checkout, None)
    with pytest.raises(CheckoutTimeout):
        hurried.result()
    opening.append(patient.result())
    assert len(pool) == len(opening) == 3


# -- a server that refuses one more, whatever it says ----------------------------------------------------

WRONG_PASSWORD = PermissionError("not with this password")


def test_who_is_refused_waits_for_those_who_have_a_connection(clock: Clock, no_second_look: None) -> None:
    pool = FakePool(size=9, max_outstanding=9)
    good, slot = pool.take_now(), pool.checkout(None)
    assert pool.should_queue_again(slot, WRONG_PASSWORD, clock.now + 1)
    pool.discard(slot)
    [waiting] = queue_up(pool, 1)
    # Nobody tries again at once.
    assert pool.snapshot().opening == 0
    pool.give(good)
    assert waiting.result() is good


def test_the_pool_grows_again_after_a_rest_and_is_told_of_once(clock: Clock, no_second_look: None) -> None:
    pool = FakePool(size=9, max_outstanding=9)
    good = pool.take_now()
    for _ in range(3):
        clock.now += REST
        slot = pool.checkout(None)
        assert slot.connection is None
        assert pool.should_queue_again(slot, WRONG_PASSWORD, None)
        pool.discard(slot)
    assert [note.event for note in pool.journal._notes].count("connect") == 1
    assert len(pool.journal.troubles) == 3
    clock.now += REST
    pool.fill(pool.checkout(None))
    pool.fill(pool.checkout(None))
    pool.give(good)


@pytest.mark.parametrize("has", ["nothing", "no time"])
def test_who_has_nobody_to_wait_for_gets_the_error(has: str, clock: Clock) -> None:
    pool = FakePool(size=9, max_outstanding=9)
    if has == "no time":
        pool.take_now()
    slot = pool.checkout(None)
    assert not pool.should_queue_again(slot, WRONG_PASSWORD, clock.now)
    pool.open_failed(slot, WRONG_PASSWORD)
    slot = pool.checkout(None)
    assert slot.connection is None
    pool.discard(slot)
