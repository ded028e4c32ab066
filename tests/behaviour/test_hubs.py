"""Native threads beside gevent's hub: each has a hub of its own, and sockets only work in theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, connections

from django_db_pooling import pooling
from django_db_pooling.process import housekeeper
from tests.behaviour.conftest import (
    PATIENCE,
    assert_whole,
    eventually,
    in_thread,
    native_threads,
    one,
    server_id,
    token,
)
from tests.behaviour.observer import Observer

pytestmark = pytest.mark.only("gevent")


@pytest.fixture(autouse=True)
def threads() -> Iterator[Any]:
    with native_threads() as pool:
        yield pool


def query() -> Any:
    number = server_id()
    connection.close()
    return number


@pytest.mark.only("pymysql", "psycopg", "psycopg2")
def test_a_connection_of_another_hub_is_replaced_within_the_cap(observer: Observer, threads: Any) -> None:
    pooling.set_pool_size(1, max_outstanding=1)
    before = pooling.stats("default").opened
    mine = query()
    theirs = threads.spawn(query).get(timeout=PATIENCE)
    assert theirs != mine
    assert query() not in (mine, theirs)
    stats = pooling.stats("default")
    assert (stats.idle, stats.in_use, stats.opened - before) == (1, 0, 3)


def test_threads_of_several_hubs_share_slots_and_wake_each_other(threads: Any) -> None:
    """A waiter sleeps in one hub while the connection comes back in another."""
    import gevent

    pooling.set_pool_size(2, max_outstanding=3, timeout=20)
    before = pooling.stats("default")
    greenlets = [gevent.spawn(lambda: [query() for _ in range(40)]) for _ in range(4)]
    jobs = [threads.spawn(lambda: [query() for _ in range(40)]) for _ in range(4)]
    for task in greenlets + jobs:
        assert len(task.get()) == 40
    stats = pooling.stats("default")
    assert (stats.in_use, stats.waiting, stats.timeouts) == (0, 0, before.timeouts)
    assert stats.opened - stats.closed == stats.idle <= 3


def test_scope_gives_back_in_a_native_thread_whose_end_gevent_does_not_tell(threads: Any) -> None:
    threads.spawn(pooling.scope()(one)).get(timeout=PATIENCE)
    stats = pooling.stats("default")
    assert (stats.in_use, stats.idle) == (0, 1)


def test_threads_of_gevents_threadpool_have_connections_of_their_own_hub(threads: Any) -> None:
    """A socket that gevent has patched works only in the native thread that opened it."""

    def work() -> None:
        token()
        connections.close_all()

    token()
    connection.close()
    for job in [threads.spawn(work) for _ in range(6)]:
        job.get(timeout=PATIENCE)
    in_thread(token)
    eventually(lambda: pooling.stats("default").in_use == 0)
    assert_whole()


@pytest.mark.parametrize("ends", [True, False], ids=["that has ended", "that lives on"])
def test_housekeeping_moves_here_from_a_native_thread(
    ends: bool, threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There it would stop with the thread, and couldn't close what this hub has opened."""
    import gevent

    monkeypatch.setattr(housekeeper, "TICK", 0.01)
    hubs = []
    is_over = False

    def work() -> bool:
        hubs.append(gevent.get_hub())
        return not is_over

    house = housekeeper.Housekeeper(work)
    try:
        # As long as it isn't asked for here, it works there.
        threads.spawn(lambda: (house.ensure_running(), gevent.sleep(0.2))).get(timeout=PATIENCE)
        assert len(hubs) > 1 and gevent.get_hub() not in hubs
        if ends:
            threads.kill()
        house.ensure_running()
        house.ensure_running()
        eventually(lambda: gevent.get_hub() in hubs)
        seen = len(hubs)
        threads.spawn(lambda: (house.ensure_running(), gevent.sleep(0.2))).get(timeout=PATIENCE)
        assert set(hubs[seen:]) == {gevent.get_hub()}
    finally:
        is_over = True
    eventually(lambda: not house._running)


def test_housekeeping_that_moves_meanwhile_goes_on_when_the_old_one_has_nothing_to_do(
    threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a third one would be started beside it, for good."""
    import gevent

    monkeypatch.setattr(housekeeper, "TICK", 0.01)
    is_moved, is_over = False, False

    def work() -> bool:
        if gevent.get_hub().main_hub:
            return not is_over
        while not is_moved:
            gevent.sleep(0.01)
        return False

    house = housekeeper.Housekeeper(work)

    def in_a_thread() -> None:
        house.ensure_running()
        gevent.sleep(0.5)

    job = threads.spawn(in_a_thread)
    eventually(lambda: house._running)
    gevent.sleep(0.2)
    house.ensure_running()
    is_moved = True
    job.get(timeout=PATIENCE)
    assert house._running and house._hub is gevent.get_hub()
    is_over = True
    eventually(lambda: not house._running)


def test_housekeeping_moves_to_another_native_thread_when_its_own_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import gevent

    monkeypatch.setattr(housekeeper, "TICK", 0.01)
    calls: list[int] = []
    house = housekeeper.Housekeeper(lambda: calls.append(1) or True)

    def in_a_thread() -> int:
        before = len(calls)
        house.ensure_running()
        gevent.sleep(0.2)
        return len(calls) - before

    for _ in range(2):
        with native_threads() as threads:
            assert threads.spawn(in_a_thread).get(timeout=PATIENCE) > 1
