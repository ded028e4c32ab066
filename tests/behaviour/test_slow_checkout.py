"""POOL["SLOW_CHECKOUT"]: what the log tells of checkouts that take long."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core import signals
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connection, connections
from django.db.backends.signals import connection_created

from django_db_pooling import pooling
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.pool import journal
from django_db_pooling.process import housekeeper
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    another_alias,
    assert_whole,
    eventually,
    held,
    in_thread,
    in_threads,
    one,
    token,
)
from tests.behaviour.test_log import only, told
from tests.concurrency import in_threads as in_plain_threads
from tests.proxy import TcpProxy
from tests.servers import free_port

servers = pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2")

SLOW = 0.3
# Until whoever is waited for goes on.
LONG = 2 * SLOW


@pytest.fixture(autouse=True)
def quick_housekeeper(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(housekeeper, "TICK", 0.02)
    caplog.set_level(logging.INFO, "django_db_pooling")


@contextmanager
def pool(most: int, **options: Any) -> Iterator[str]:
    """An alias with so many connections, for whose checkouts SLOW seconds are long."""
    with another_alias(POOL={"SLOW_CHECKOUT": SLOW, **options}) as alias:
        pooling.set_pool_size(most, max_outstanding=most, timeout=5, alias=alias)
        yield alias


def at(path: str, work: Callable[[], Any]) -> Callable[[], Any]:
    """As a request for this path, in a thread of its own."""

    def handle() -> Any:
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path}
        signals.request_started.send(sender=None, environ=environ)
        try:
            return work()
        finally:
            signals.request_finished.send(sender=None)

    return handle


def queue_up(alias: str, path: str = "/waits", seconds: float = LONG) -> None:
    """A request waits for so long for the only connection, which another one holds: taken in line TAKEN."""

    def hold() -> None:
        connections[alias].ensure_connection()
        eventually(lambda: pooling.stats(alias).waiting == 1)
        time.sleep(seconds)

    def wait() -> None:
        eventually(lambda: pooling.stats(alias).in_use == 1)
        token(alias)

    in_plain_threads([at("/holds", hold), at(path, wait)])


TAKEN = inspect.getsourcelines(queue_up)[1] + 4


# -- the log --------------------------------------------------------------------------------------


def test_who_waits_in_the_queue_and_who_holds_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    with pool(1, LEAK_THRESHOLD=60) as alias:
        queue_up(alias)
        record = only(caplog, alias, "slow")
    assert record["levelname"] == "WARNING"
    assert record["pool_request"] == "GET /waits"
    assert SLOW <= record["pool_queue_seconds"] <= record["pool_seconds"]
    assert record["pool_connect_seconds"] == 0
    assert record["pool_check_seconds"] < SLOW
    # As it was while it waited, and not after that.
    assert (record["pool_in_use"], record["pool_waiting"], record["pool_max_outstanding"]) == (1, 1, 1)
    assert record["pool_holders"].endswith(f"taken at {Path(__file__)}:{TAKEN}")
    assert " s by GET /holds in thread " in record["pool_holders"]
    assert SLOW <= float(record["pool_holders"].partition(" s")[0]) <= record["pool_seconds"] + 1
    for part in ("slow checkout of GET /waits", "1 in use, 1 waiting", record["pool_holders"]):
        assert part in record["message"]


def test_a_pause_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with pool(1) as alias:
        pooling.pause(alias, LONG)
        in_thread(lambda: token(alias))
        record = only(caplog, alias, "slow")
        assert record["message"].endswith("held longest: nobody. The pool is paused, for 0 s more.")
    with pool(1, HOST_LIMIT=1) as alias:
        queue_up(alias)
        assert "HOST_LIMIT 1" in only(caplog, alias, "slow")["message"]


def test_those_who_hold_for_longest_come_first_and_are_few(caplog: pytest.LogCaptureFixture) -> None:
    with pool(5) as alias:

        def hold(number: int) -> None:
            eventually(lambda: pooling.stats(alias).in_use == number)
            one(alias)
            eventually(lambda: told(caplog, alias, "slow") or pooling.stats(alias).waiting)
            time.sleep(LONG)

        def wait() -> None:
            eventually(lambda: pooling.stats(alias).in_use == 5)
            token(alias)

        holders = [at(f"/{number}", lambda number=number: hold(number)) for number in range(5)]
        in_plain_threads([*holders, at("/waits", wait)])
        told_of = only(caplog, alias, "slow")["pool_holders"]
    assert [part.split()[4] for part in told_of.split("; ")] == ["/0", "/1", "/2"]


def test_an_opening_that_takes_long(caplog: pytest.LogCaptureFixture) -> None:
    with pool(2) as alias:

        def dawdle(sender: Any, connection: Any, **kwargs: Any) -> None:
            if connection.alias == alias:
                time.sleep(LONG)

        connection_created.connect(dawdle)
        try:
            in_plain_threads([at("/opens", lambda: one(alias))])
        finally:
            connection_created.disconnect(dawdle)
        record = only(caplog, alias, "slow")
    assert record["pool_request"] == "GET /opens"
    assert SLOW <= record["pool_connect_seconds"] <= record["pool_seconds"]
    assert record["pool_queue_seconds"] < SLOW
    # Not the one that it has got itself.
    assert record["pool_holders"] == "nobody"


# It waits in C code, and the proxy is a greenlet.
@pytest.mark.never("mysqlclient", "gevent")
@servers
def test_a_question_that_takes_long(caplog: pytest.LogCaptureFixture) -> None:
    settings = connection.settings_dict
    with (
        TcpProxy(settings["HOST"], int(settings["PORT"])) as proxy,
        another_alias(
            HOST=proxy.host, PORT=str(proxy.port), CONN_HEALTH_CHECKS=True, POOL={"SLOW_CHECKOUT": SLOW}
        ) as alias,
    ):
        one(alias)
        connections[alias].close()
        proxy.delay(LONG)
        one(alias)
        proxy.resume()
        record = only(caplog, alias, "slow")
    assert SLOW <= record["pool_check_seconds"] <= record["pool_seconds"]
    assert record["pool_queue_seconds"] == record["pool_connect_seconds"] == 0


@servers
def test_one_that_fails_is_told_of_but_a_timeout_only_once(caplog: pytest.LogCaptureFixture) -> None:
    with another_alias(PORT=str(free_port()), POOL={"SLOW_CHECKOUT": SLOW, "CONNECT_RETRY": LONG}) as alias:
        with pytest.raises(OperationalError):
            in_thread(lambda: one(alias))
        assert only(caplog, alias, "slow")["pool_check_seconds"] < SLOW
    with pool(1) as alias, held(1, alias):
        pooling.set_pool_size(1, max_outstanding=1, timeout=LONG, alias=alias)
        with pytest.raises(PoolTimeout):
            in_thread(lambda: one(alias))
        assert only(caplog, alias, "timeout")["pool_seconds"] >= LONG
        assert not told(caplog, alias, "slow")


@pytest.mark.only("gevent")
def test_one_that_is_given_up_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    import gevent

    with pool(1) as alias:
        with held(1, alias), pytest.raises(gevent.Timeout), gevent.Timeout(LONG):
            one(alias)
        assert only(caplog, alias, "slow")["pool_queue_seconds"] >= SLOW
        assert_whole(alias)


def test_those_that_take_no_time_are_not_told_of_and_none_where_it_is_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pool(1) as alias:
        in_threads([lambda: one(alias)] * 5)
        for _ in range(5):
            one(alias)
            connections[alias].close()
        connections[alias].close()
        queue_up(alias, seconds=0)
        time.sleep(0.1)
        assert not told(caplog, alias, "slow")
    with pool(1, SLOW_CHECKOUT=None) as alias:
        queue_up(alias)
        time.sleep(0.1)
        assert not told(caplog, alias, "slow")
        assert registry.pools(alias)[0].queue.looks._latest is None


def test_a_storm_is_one_line_and_one_look(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "QUIET", 3.0)
    looks = []
    with pool(1) as alias:
        one(alias)
        connections[alias].close()
        counted = registry.pools(alias)[0].queue.looks
        look = counted._look
        monkeypatch.setattr(counted, "_look", lambda own: looks.append(own) or look(own))
        with held(1, alias) as let_go:

            def end_it() -> None:
                eventually(lambda: pooling.stats(alias).waiting == 20)
                time.sleep(LONG)
                let_go()

            in_threads([end_it, *[lambda: token(alias)] * 20])
        eventually(lambda: len(told(caplog, alias, "slow")) == 2)
        first, second = told(caplog, alias, "slow")
    assert first.get("pool_suppressed", 0) + second["pool_suppressed"] == 18
    # Who came a moment later may have looked once more.
    assert 1 <= len(looks) <= 3


def test_no_password_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with pool(1) as alias:
        queue_up(alias, "/login?password=c4n4ry\n")
        record = only(caplog, alias, "slow")
    assert "c4n4ry" not in repr(record)
    assert "\n" not in record["message"]


@pytest.mark.parametrize("value", [-1, "1", True])
def test_a_bad_value_is_an_error_that_names_the_key(value: Any) -> None:
    with another_alias(POOL={"SLOW_CHECKOUT": value}) as alias:
        with pytest.raises(ImproperlyConfigured, match="'SLOW_CHECKOUT'.*seconds, 0 or more, or None"):
            one(alias)
        connections.settings[alias]["POOL"] = {}
