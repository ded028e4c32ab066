"""``POOL["PING"]``: idle connections are asked something, for what counts statements and no TCP probes."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.db import connections

from django_db_pooling import pooling
from django_db_pooling.pool.slot import Slot
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    MARIADB,
    MYSQL,
    another_alias,
    assert_whole,
    eventually,
    in_threads,
    native_threads,
    token,
)
from tests.behaviour.observer import Observer
from tests.proxy import TcpProxy

pytestmark = [
    pytest.mark.only("psycopg", "psycopg2", "pymysql", "mysqlclient"),
    pytest.mark.transaction_scope,
]

ROUNDS = 3.5


def slots(alias: str) -> list[Slot]:
    return registry.pools(alias)[0].slots.idle()


def seconds_without_a_word(observer: Observer, alias: str) -> list[float]:
    """As the server sees the sessions to the test database."""
    if MARIADB:
        query = f"SELECT time_ms / 1000 FROM information_schema.processlist WHERE db = '{observer.name}'"
    elif MYSQL:
        query = f"SELECT time FROM information_schema.processlist WHERE db = '{observer.name}'"
    else:
        query = (
            "SELECT extract(epoch FROM clock_timestamp() - state_change) FROM pg_stat_activity"
            f" WHERE datname = '{observer.name}'"
        )
    return [float(row[0]) for row in observer.rows(query)]


def test_the_server_hears_of_every_idle_connection(observer: Observer) -> None:
    with another_alias(POOL={"PING": 0}) as alias:
        pooling.set_pool_size(3, max_outstanding=3, alias=alias)
        pooling.warm_up(alias, 3)
        time.sleep(ROUNDS)
        told = seconds_without_a_word(observer, alias)
        # A round each second.
        assert len(told) == 3 and max(told) < 2.5, told
        stats = pooling.stats(alias)
        assert (stats.opened, stats.idle, stats.broken, stats.checkouts) == (3, 3, 0, 0)
        # Those were the openings.
        assert stats.helds.count == 3
    with another_alias() as alias:
        pooling.warm_up(alias, 1)
        time.sleep(ROUNDS)
        [told_of_one] = seconds_without_a_word(observer, alias)
        assert told_of_one >= ROUNDS - 1


def test_nobody_is_asked_before_it_is_time(observer: Observer) -> None:
    with another_alias(POOL={"PING": 30}) as alias:
        pooling.warm_up(alias, 1)
        [slot] = slots(alias)
        asked = slot.validated_at
        time.sleep(2.5)
        assert slots(alias)[0].validated_at == asked


def test_it_keeps_none_from_being_closed_for_want_of_use() -> None:
    with another_alias(POOL={"PING": 0, "IDLE_TIMEOUT": 2.5}) as alias:
        pooling.warm_up(alias, 2)
        time.sleep(1.5)
        assert pooling.stats(alias).idle == 2
        eventually(lambda: pooling.stats(alias).closed_by_reason["idle"] == 2)


def test_the_order_of_the_idle_ones_stays() -> None:
    with another_alias(POOL={"PING": 0}) as alias:
        pooling.set_pool_size(3, max_outstanding=3, alias=alias)
        pooling.warm_up(alias, 3)
        before = [slot.number for slot in slots(alias)]
        eventually(lambda: all(slot.validated_at > slot.returned_at + 1 for slot in slots(alias)))
        eventually(lambda: [slot.number for slot in slots(alias)] == before)


# C code that waits there keeps all greenlets waiting.
@pytest.mark.never("mysqlclient", "gevent")
@pytest.mark.never("psycopg2", "gevent")
def test_one_that_does_not_answer_is_closed_and_the_housekeeping_goes_on() -> None:
    settings = connections.settings["default"]
    with (
        TcpProxy(settings["HOST"], int(settings["PORT"])) as proxy,
        another_alias(HOST=proxy.host, PORT=str(proxy.port), POOL={"PING": 0, "CONNECT_RETRY": 0}) as alias,
        another_alias(POOL={"IDLE_TIMEOUT": 0}) as other,
    ):
        pooling.warm_up(alias, 2)
        proxy.deaf()
        eventually(lambda: pooling.stats(alias).in_use == 1)
        pooling.warm_up(other, 1)
        began = time.monotonic()
        eventually(lambda: pooling.stats(other).idle == 0)
        assert time.monotonic() - began < 3
        assert pooling.stats(alias).broken == 0, "it came too late to show anything"
        eventually(lambda: pooling.stats(alias).broken == 1)
        [left] = registry.pools(alias)[0].slots.all()
        assert registry.pools(alias)[0].is_suspect(left)
        proxy.resume()
        token(alias)
        assert_whole(alias)


def test_one_that_the_server_has_closed_is_replaced_by_min_size(observer: Observer) -> None:
    with another_alias(POOL={"PING": 0, "MIN_SIZE": 2}) as alias:
        pooling.warm_up(alias)
        assert observer.kill() == 2
        eventually(lambda: pooling.stats(alias).closed == 2 and pooling.stats(alias).idle == 2)
        assert_whole(alias)


def test_callers_meanwhile_are_served_by_the_same_connections() -> None:
    with another_alias(POOL={"PING": 0}) as alias:
        pooling.set_pool_size(2, max_outstanding=2, timeout=5, alias=alias)
        until = time.monotonic() + 3

        def use() -> None:
            while time.monotonic() < until:
                token(alias)
                time.sleep(0.002)

        in_threads([use] * 4)
        stats = pooling.stats(alias)
        assert (stats.broken, stats.timeouts, stats.reclaimed) == (0, 0, 0)
        assert stats.opened <= 2
        assert stats.longest_wait_seconds < 2


def test_without_autocommit_no_transaction_is_left_open(observer: Observer) -> None:
    with another_alias(POOL={"PING": 0}, AUTOCOMMIT=False) as alias:
        pooling.warm_up(alias, 1)
        [slot] = slots(alias)
        eventually(lambda: slot.validated_at > slot.returned_at + 1 and slots(alias) == [slot])
        if MYSQL:
            query = "SELECT count(*) FROM information_schema.innodb_trx"
        else:
            query = (
                f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{observer.name}' AND state <> 'idle'"
            )
        assert observer.rows(query)[0][0] == 0
        token(alias)
        connections[alias].rollback()


@pytest.mark.only("pymysql", "psycopg")
@pytest.mark.only("gevent")
def test_those_of_another_hub_are_left_alone() -> None:
    import gevent

    with another_alias(POOL={"PING": 0}) as alias, native_threads() as threads:

        def stay(event: Any) -> None:
            pooling.warm_up(alias, 1)
            event.set()
            gevent.sleep(ROUNDS)
            connections.close_all()

        event = gevent.monkey.get_original("threading", "Event")()
        task = threads.spawn(stay, event)
        eventually(event.is_set)
        [slot] = slots(alias)
        asked = slot.validated_at
        pooling.warm_up(alias, 1)
        eventually(lambda: any(one.validated_at > one.returned_at + 1 for one in slots(alias)))
        assert slot.validated_at == asked
        task.get(timeout=20)
