"""Native threads beside gevent's hub: each has a hub of its own, and sockets only work in theirs."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection, connections

from django_db_pooling import pooling
from tests.behaviour.conftest import PATIENCE, assert_whole, eventually, in_thread, one, server_id, token
from tests.behaviour.observer import Observer

pytestmark = pytest.mark.only("gevent")


def in_native_threads(functions: list[Any]) -> list[Any]:
    """Run each in a thread of gevent's threadpool; other greenlets of this hub go on meanwhile."""
    import gevent

    pool = gevent.get_hub().threadpool
    return [job.get(timeout=PATIENCE) for job in [pool.spawn(function) for function in functions]]


def in_native_thread(function: Any) -> Any:
    return in_native_threads([function])[0]


def query() -> Any:
    number = server_id()
    connection.close()
    return number


@pytest.mark.only("pymysql", "psycopg", "psycopg2")
def test_a_connection_of_another_hub_is_replaced_within_the_cap(observer: Observer) -> None:
    pooling.set_pool_size(1, max_outstanding=1)
    before = pooling.stats("default").opened
    mine = query()
    theirs = in_native_thread(query)
    assert theirs != mine
    assert query() not in (mine, theirs)
    stats = pooling.stats("default")
    assert (stats.idle, stats.in_use, stats.opened - before) == (1, 0, 3)


def test_threads_of_several_hubs_share_slots_and_wake_each_other() -> None:
    """A waiter sleeps in one hub while the connection comes back in another."""
    import gevent

    pooling.set_pool_size(2, max_outstanding=3, timeout=20)
    before = pooling.stats("default")
    greenlets = [gevent.spawn(lambda: [query() for _ in range(40)]) for _ in range(4)]
    threads = [gevent.get_hub().threadpool.spawn(lambda: [query() for _ in range(40)]) for _ in range(4)]
    for task in greenlets + threads:
        assert len(task.get()) == 40
    stats = pooling.stats("default")
    assert (stats.in_use, stats.waiting, stats.timeouts) == (0, 0, before.timeouts)
    assert stats.opened - stats.closed == stats.idle <= 3


def test_scope_gives_back_in_a_native_thread_whose_end_gevent_does_not_tell() -> None:
    in_native_thread(pooling.scope()(one))
    stats = pooling.stats("default")
    assert (stats.in_use, stats.idle) == (0, 1)


def test_threads_of_gevents_threadpool_have_connections_of_their_own_hub() -> None:
    """A socket that gevent has patched works only in the native thread that opened it."""

    def work() -> None:
        token()
        connections.close_all()

    token()
    connection.close()
    in_native_threads([work] * 6)
    in_thread(token)
    eventually(lambda: pooling.stats("default").in_use == 0)
    assert_whole()
