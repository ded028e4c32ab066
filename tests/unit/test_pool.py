"""The pool alone: no Django, no server, a driver that counts."""

from __future__ import annotations

import contextlib
import logging
import threading

import pytest

from django_db_pooling.pool import CheckoutTimeout
from django_db_pooling.pool import slots as slots_module
from django_db_pooling.pool.stats import Closed
from tests.unit.fakes import PASSED, SOON, Caller, Clock, FakePool, Interrupt, queue_up

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


# -- affinities ----------------------------------------------------------------------------------


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
    assert bare.connection is None and bare.affinity is not here
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
    affinity, other = pool.driver.here, object()
    pool.driver.here = other
    foreign = pool.take_now()
    pool.driver.here = affinity
    (mine,) = pool.open_idle(1)
    returned = [foreign]

    def hub_of_caller() -> object:
        if returned:
            pool.checkin(returned.pop())
        return affinity

    pool.driver.hub = hub_of_caller  # type: ignore[method-assign]
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
    affinity, other = pool.driver.here, object()
    callers: list[Caller] = []

    def hub_of_caller() -> object:
        if threading.current_thread() is not threading.main_thread():
            return affinity
        if not callers:
            callers.append(Caller(pool.checkout, PASSED))
            callers[0].join(SOON)
        return other

    pool.driver.hub = hub_of_caller  # type: ignore[method-assign]
    with contextlib.suppress(CheckoutTimeout):
        pool.checkout(PASSED)
    assert callers[0].result().connection is connection


# -- drivers that fail ----------------------------------------------------------------------


def test_a_drop_that_raises_is_logged_and_the_slot_is_free(caplog: pytest.LogCaptureFixture) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    pool.driver.drop_error = OSError("no such descriptor")
    pool.discard(slot)
    assert len(pool) == 0
    assert caplog.text == ""
    pool.maintain()
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
    assert caplog.text == ""
    pool.maintain()
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    assert "closing a connection failed: OSError: broken pipe" in caplog.text


def test_a_close_that_is_interrupted_frees_the_slot() -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    (waiter,) = queue_up(pool, 1)
    pool.driver.close_error = Interrupt()
    with pytest.raises(Interrupt):
        pool.close(slot)
    assert waiter.result().connection is None


def test_a_waiter_that_is_interrupted_while_closing_what_it_got_loses_nothing() -> None:
    """It was served an old connection, queues at the front again and closes that one: then it is killed."""
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    first, second = queue_up(pool, 2)
    slot.expires_at = 0.0
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
    assert [close_wait for _, close_wait in pool.driver.closed] == [slots_module.CLOSE_WAIT, 0.0]


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
    pool.discard(slots.pop(), Closed.BROKEN)
    slots.clear()
    stats = pool.snapshot()
    assert stats.checkouts == 5
    assert (stats.opened, stats.closed, stats.broken, stats.reclaimed) == (4, 3, 1, 1)
    assert stats.opened - stats.closed == stats.idle == 1
    assert stats.held_seconds == 8
    assert stats.wait_seconds == stats.longest_wait_seconds == 0


def test_durations_never_go_back_while_a_caller_that_queued_is_being_counted() -> None:
    """It is counted as one that queued before its checkout is: a thread may read between the two."""
    pool = FakePool()
    for _ in range(2):
        pool.give(pool.take())
    before = pool.snapshot().waits
    pool.counts.queued += 1
    assert pool.snapshot().waits == before
    pool.counts.checkouts += 1
    assert pool.snapshot().waits == before


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
