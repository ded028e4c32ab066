"""Connections that are opened before anybody asks for one: ``pooling.warm_up()``, and MIN_SIZE of a process
that serves.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import OperationalError, connections
from django.db.utils import ConnectionDoesNotExist
from django.test import Client
from django.test.utils import setup_test_environment, teardown_test_environment

from django_db_pooling import pooling
from django_db_pooling.backend.serving import serving
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    another_alias,
    assert_whole,
    eventually,
    held,
    in_thread,
    in_threads,
    native_threads,
    request_finished,
    request_started,
    token,
)
from tests.behaviour.observer import Observer
from tests.concurrency import in_child
from tests.proxy import TcpProxy

SERVERS = ("psycopg", "psycopg2", "pymysql", "mysqlclient")


@pytest.fixture
def proxied() -> Iterator[tuple[str, TcpProxy]]:
    settings = connections.settings["default"]
    with (
        TcpProxy(settings["HOST"], int(settings["PORT"])) as proxy,
        another_alias(HOST=proxy.host, PORT=str(proxy.port), POOL={"CONNECT_RETRY": 3}) as alias,
    ):
        pooling.set_pool_size(4, max_outstanding=4, timeout=5, alias=alias)
        yield alias, proxy


def state(alias: str = "default") -> tuple[int, int, int]:
    stats = pooling.stats(alias)
    return stats.idle, stats.in_use, stats.opening


def is_empty(alias: str) -> bool:
    return len(registry.pools(alias)[0]) == 0


# -- what it opens -------------------------------------------------------------------------------------


def test_it_opens_so_many_before_the_first_query_and_those_serve_requests(observer: Observer) -> None:
    with another_alias() as alias:
        pooling.set_pool_size(4, max_outstanding=4, alias=alias)
        pooling.warm_up(alias, 4)
        assert state(alias) == (4, 0, 0)
        assert observer.count() == 4
        together = threading.Barrier(4)

        def use() -> None:
            token(alias)
            together.wait(10)
            token(alias)

        in_threads([use] * 4)
        assert pooling.stats(alias).opened == 4


def test_open_ones_count() -> None:
    with another_alias() as alias, held(1, alias):
        pooling.set_pool_size(4, max_outstanding=4, alias=alias)
        pooling.warm_up(alias, 3)
        assert state(alias) == (2, 1, 0)
        pooling.warm_up(alias, 3)
        pooling.warm_up(alias)
        assert (state(alias), pooling.stats(alias).opened) == ((2, 1, 0), 3)


def test_left_out_it_is_min_size_or_one_of_every_pooled_alias() -> None:
    pool = {"SIZE": 4, "MAX_OUTSTANDING": 4, "MIN_SIZE": 3}
    with another_alias(POOL=pool) as three, another_alias() as one, another_alias(POOL=False) as none:
        pooling.set_pool_size(4, max_outstanding=4, alias=three)
        pooling.warm_up()
        assert (state(three)[0], state(one)[0], state()[0]) == (3, 1, 1)
        pooling.warm_up(none, 2)
        assert [pool.name for pool in registry.pools(none)] == []


@pytest.mark.only(*SERVERS)
@pytest.mark.never("mysqlclient", "gevent")
@pytest.mark.never("psycopg2", "gevent")
def test_two_are_opened_side_by_side(proxied: tuple[str, TcpProxy]) -> None:
    alias, proxy = proxied
    highest = 0
    is_over = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not is_over.is_set():
            highest = max(highest, pooling.stats(alias).opening)
            time.sleep(0.005)

    def warm() -> None:
        try:
            pooling.warm_up(alias, 4)
        finally:
            is_over.set()

    proxy.delay(0.05)
    in_threads([watch, warm])
    assert state(alias) == (4, 0, 0)
    assert highest >= 2


def test_a_pool_that_keeps_nothing_is_filled_once() -> None:
    with another_alias(POOL={"MAX_AGE": 0}) as alias:
        pooling.warm_up(alias, 2)
        stats = pooling.stats(alias)
        assert 1 <= stats.opened == stats.closed <= 4


# asgiref's threads and gevent's greenlets don't know each other.
@pytest.mark.only("threads")
def test_in_a_running_event_loop_it_is_refused_and_works_by_sync_to_async() -> None:
    from asgiref.sync import sync_to_async

    with another_alias() as alias:

        async def live() -> None:
            with pytest.raises(SynchronousOnlyOperation):
                pooling.warm_up(alias, 2)
            await sync_to_async(pooling.warm_up)(alias, 2)

        in_thread(lambda: asyncio.run(live()))
        assert state(alias) == (2, 0, 0)


def test_a_forked_child_has_its_own() -> None:
    token()

    def warm() -> Any:
        pooling.warm_up("default", 2)
        warm = state()
        token()
        return [*warm, pooling.stats("default").opened]

    assert in_child(warm) == [2, 0, 0, 2]
    token()


@pytest.mark.only("pymysql", "psycopg")
@pytest.mark.only("gevent")
def test_they_work_in_the_hub_of_the_caller() -> None:
    def in_native_thread() -> int:
        pooling.warm_up("default", 2)
        before = pooling.stats("default").opened
        token()
        connections.close_all()
        return pooling.stats("default").opened - before

    before = pooling.stats("default").opened
    pooling.warm_up("default", 2)
    with native_threads() as threads:
        assert threads.spawn(in_native_thread).get(timeout=20) == 0
    assert pooling.stats("default").opened - before == 4


# -- what it can't open --------------------------------------------------------------------------------


@pytest.mark.only(*SERVERS)
def test_it_raises_what_connecting_raises_as_django_has_it() -> None:
    with another_alias(PASSWORD="wrong", USER="nobody") as alias:
        with pytest.raises(OperationalError) as caught:
            pooling.warm_up(alias, 3)
        assert not isinstance(caught.value, PoolTimeout)
        assert isinstance(caught.value.__cause__, connections[alias].Database.Error)
        # Others may be in the middle of an attempt.
        eventually(lambda: is_empty(alias))
        assert state(alias) == (0, 0, 0)


@pytest.mark.only(*SERVERS)
@pytest.mark.never("mysqlclient", "gevent")
def test_it_waits_for_a_server_that_is_away_for_a_moment(proxied: tuple[str, TcpProxy]) -> None:
    alias, proxy = proxied
    proxy.refuse()

    def back_in_a_moment() -> None:
        time.sleep(0.5)
        proxy.resume()

    in_threads([back_in_a_moment, lambda: pooling.warm_up(alias, 4)])
    assert state(alias) == (4, 0, 0)
    assert_whole(alias)


@pytest.mark.only(*SERVERS)
@pytest.mark.never("mysqlclient", "gevent")
@pytest.mark.never("psycopg2", "gevent")
def test_a_silent_server_leaves_nothing_half_open(proxied: tuple[str, TcpProxy]) -> None:
    alias, proxy = proxied
    proxy.deaf()
    began = time.monotonic()
    with pytest.raises(OperationalError):
        pooling.warm_up(alias, 4, timeout=0.5)
    assert time.monotonic() - began < 5
    eventually(lambda: is_empty(alias))
    proxy.resume()
    assert_whole(alias)


class Struck(BaseException):
    """As KeyboardInterrupt, which pytest would take for its own."""


@pytest.mark.only(*SERVERS)
@pytest.mark.only("threads")
def test_a_signals_exception_leaves_nothing_half_open(proxied: tuple[str, TcpProxy]) -> None:
    alias, proxy = proxied
    pooling.warm_up(alias, 1)

    def strike(*arguments: Any) -> None:
        raise Struck

    before = signal.signal(signal.SIGALRM, strike)
    proxy.deaf()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Struck):
            pooling.warm_up(alias, 4, timeout=1)
    finally:
        signal.signal(signal.SIGALRM, before)
    # By the same deadline.
    eventually(lambda: len(registry.pools(alias)[0]) == 1)
    assert pooling.stats(alias).opening == 0
    proxy.resume()
    assert_whole(alias)


@pytest.mark.only("pymysql", "psycopg")
@pytest.mark.only("gevent")
@pytest.mark.parametrize("how", ["timeout", "kill"])
def test_a_timeout_or_a_kill_of_gevents_ends_it_at_once(proxied: tuple[str, TcpProxy], how: str) -> None:
    import gevent

    alias, proxy = proxied
    pooling.warm_up(alias, 1)
    proxy.deaf()
    if how == "timeout":
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.2):
            pooling.warm_up(alias, 4)
    else:
        greenlet = gevent.spawn(pooling.warm_up, alias, 4)
        eventually(lambda: pooling.stats(alias).opening == 2)
        greenlet.kill()
    began = time.monotonic()
    eventually(lambda: len(registry.pools(alias)[0]) == 1)
    assert time.monotonic() - began < 1
    assert pooling.stats(alias).opening == 0
    proxy.resume()
    assert_whole(alias)


def test_in_a_full_pool_the_time_is_over_with_pool_timeout() -> None:
    with another_alias() as alias, another_alias() as other:
        pooling.set_pool_size(2, max_outstanding=2, alias=alias)
        with held(2, alias):
            # They are open.
            pooling.warm_up(alias, 2, timeout=0)
        pooling.set_pool_size(2, max_outstanding=2, alias=other)
        with pytest.raises(PoolTimeout, match=rf"pool '{other}': 0 of 2 were open after a warm-up") as caught:
            pooling.warm_up(other, 2, timeout=0)
        assert caught.value.alias == other
        # Nobody's request has failed.
        assert pooling.stats(other).timeouts == 0


def test_processes_of_a_host_open_no_more_than_they_may_together() -> None:
    with another_alias(POOL={"HOST_LIMIT": 3, "SIZE": 3, "MIN_SIZE": 3}) as alias:
        pooling.set_pool_size(3, max_outstanding=3, alias=alias)

        def in_another_process() -> Any:
            with pytest.raises(PoolTimeout, match="1 of 3 were open"):
                pooling.warm_up(alias, 3, timeout=2)
            # Left out, it is a fair share.
            pooling.warm_up(alias, timeout=2)
            return state(alias)

        with held(2, alias):
            assert in_child(in_another_process) == [1, 0, 0]


def test_callers_are_served_meanwhile_and_there_are_never_too_many(observer: Observer) -> None:
    with another_alias() as alias:
        pooling.set_pool_size(4, max_outstanding=4, timeout=5, alias=alias)
        most = []

        def use() -> None:
            for _ in range(10):
                token(alias)
                most.append(len(registry.pools(alias)[0]))
                connections[alias].close()

        in_threads([lambda: pooling.warm_up(alias, 4)] * 3 + [use] * 8)
        assert max(most) <= 4
        assert pooling.stats(alias).opened == 4 == observer.count()
        assert_whole(alias)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2", 5])
def test_a_wrong_number_of_connections_is_named(wrong: Any) -> None:
    with pytest.raises(ValueError, match="^connections must be"):
        pooling.warm_up("default", wrong)
    assert state()[0] == 0


@pytest.mark.parametrize("wrong", [-1, "2", True])
def test_a_wrong_timeout_is_named(wrong: Any) -> None:
    with pytest.raises(ValueError, match="^timeout must be"):
        pooling.warm_up("default", timeout=wrong)


def test_so_is_an_unknown_alias() -> None:
    with pytest.raises(ConnectionDoesNotExist, match="'nobody'"):
        pooling.warm_up("nobody")


# -- MIN_SIZE of a process that serves -----------------------------------------------------------------


@pytest.mark.transaction_scope
def test_from_the_first_request_on_min_size_is_kept_for_an_alias_that_nobody_has_used() -> None:
    serving.forked()
    with another_alias(POOL={"SIZE": 4, "MAX_OUTSTANDING": 4, "MIN_SIZE": 3}) as alias:
        pooling.set_pool_size(4, max_outstanding=4, alias=alias)
        token()
        # A query is no request, as in commands, nor is one of a test client's.
        Client().get("/nothing")
        time.sleep(2.5)
        assert registry.pools(alias) == []
        request_started()
        request_finished()
        eventually(lambda: state(alias) == (3, 0, 0))
        assert pooling.stats(alias).checkouts == 0


@pytest.mark.transaction_scope
def test_a_run_of_tests_serves_nobody() -> None:
    """There aliases that no test uses lead to the real databases."""
    serving.forked()
    setup_test_environment()
    try:
        request_started()
        request_finished()
        assert not serving.has_begun
    finally:
        teardown_test_environment()
    request_started()
    request_finished()
    assert serving.has_begun
