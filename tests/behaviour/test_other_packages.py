"""What other packages do with connections and errors: retries, close_pool(), eventlet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import OperationalError, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_db_pooling import pooling
from django_db_pooling.exceptions import PoolTimeout
from tests.behaviour.conftest import (
    MYSQL,
    PATIENCE,
    POSTGRESQL,
    another_alias,
    assert_whole,
    eventually,
    held,
    in_thread,
    in_threads,
    one,
    plain,
    token,
)
from tests.behaviour.observer import Observer
from tests.behaviour.test_errors import in_process

servers = pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2")


# -- retries ----------------------------------------------------------------------------------------


@pytest.fixture
def retrying(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """As django-dbconn-retry has it: one retry, whatever the OperationalError is, while that is handled."""
    seen: list[BaseException] = []
    ensure_connection = BaseDatabaseWrapper.ensure_connection

    def retry(self: BaseDatabaseWrapper) -> None:
        try:
            ensure_connection(self)
        except OperationalError as error:
            seen.append(error)
            ensure_connection(self)

    monkeypatch.setattr(BaseDatabaseWrapper, "ensure_connection", retry)
    return seen


def test_a_retry_does_not_wait_for_a_full_pool_again(retrying: list[BaseException]) -> None:
    pooling.set_pool_size(1, max_outstanding=1, timeout=1)
    with held(1):
        began = time.monotonic()
        with pytest.raises(PoolTimeout) as raised:
            one()
        assert time.monotonic() - began < 1.8
    [first] = retrying
    assert isinstance(first, PoolTimeout)
    assert (first.alias, raised.value.alias) == ("default", "default")
    assert first.waited > 0.9 and raised.value.waited < 0.1
    assert_whole()


def test_a_retry_takes_what_has_become_free(retrying: list[BaseException]) -> None:
    pooling.set_pool_size(1, max_outstanding=1, timeout=0.3)
    with held(1) as let_go:
        try:
            raise PoolTimeout("of a moment ago", 0.3, "default")
        except PoolTimeout:
            let_go()
            token()
    assert retrying == []
    assert_whole()


def test_another_alias_is_waited_for() -> None:
    with another_alias() as other:
        pooling.set_pool_size(1, max_outstanding=1, timeout=PATIENCE, alias=other)
        with held(1, other) as let_go:

            def release() -> None:
                eventually(lambda: pooling.stats(other).waiting)
                let_go()

            def fall_back() -> None:
                try:
                    raise PoolTimeout("of the primary", 0.3, "default")
                except PoolTimeout:
                    token(other)

            in_threads([fall_back, release])


# -- close_pool() -----------------------------------------------------------------------------------


def open_some() -> None:
    with held(2):
        one()
    connection.close()
    eventually(lambda: pooling.stats("default").idle)


def test_close_pool_leaves_nothing_open(observer: Observer) -> None:
    open_some()
    with another_alias() as other:
        token(other)
        connections[other].close()
        connections["default"].close_pool()  # type: ignore[attr-defined]
        assert pooling.stats("default").idle == 0
        assert pooling.stats(other).idle == 1
    pooling.close_all()
    eventually(lambda: observer.count() == 0)
    token()


def test_what_is_in_use_goes_on_and_is_closed_when_it_comes_back(observer: Observer) -> None:
    with held(1), transaction.atomic():
        token()
        connections["default"].close_pool()  # type: ignore[attr-defined]
        token()
    connection.close()
    eventually(lambda: observer.count() == 0)
    assert pooling.stats("default").idle == 0
    assert_whole()


@contextmanager
def a_database(name: str) -> Iterator[None]:
    with plain() as wrapper:
        with wrapper.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        try:
            yield
        finally:
            with wrapper.cursor() as cursor:
                cursor.execute(f"DROP DATABASE IF EXISTS {name}")


@servers
@pytest.mark.transaction_scope
def test_after_close_pool_its_database_can_be_dropped() -> None:
    name = "behaviour_to_be_dropped"
    with a_database(name), another_alias(NAME=name) as other:
        token(other)
        in_thread(lambda: token(other))
        connections.close_all()
        connections[other].close_pool()  # type: ignore[attr-defined]
        with plain() as wrapper, wrapper.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name}")
    assert MYSQL or POSTGRESQL


# -- eventlet ---------------------------------------------------------------------------------------


@pytest.mark.only("threads")
@pytest.mark.parametrize("is_patched", [False, True])
def test_with_eventlet_patch_says_what_to_do(is_patched: bool) -> None:
    """eventlet's patch takes select.poll() away, without which nobody knows whether a connection is alive."""
    told: Any = in_process(f"""
import sys, types
patcher = sys.modules["eventlet.patcher"] = types.ModuleType("eventlet.patcher")
patcher.is_monkey_patched = lambda module: {is_patched}
import django; django.setup()
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django_db_pooling import pooling
words = ""
try:
    pooling.patch()
except ImproperlyConfigured as error:
    words = str(error)
from django_db_pooling import checks
print(json.dumps([words, "django_db_pooling.E008" in [check.id for check in run_checks()]]))
""")
    words, is_checked = told
    assert is_checked is is_patched
    assert ("gthread" in words and "E008" in words) is is_patched
