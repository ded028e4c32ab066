"""A server that lives on and is the wrong one, and connections that can't go on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from django.db import DatabaseError, connections, transaction

from django_db_pooling import pooling
from django_db_pooling.database_pool import REPLACING
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    DRIVER,
    MYSQL,
    POSTGRESQL,
    another_alias,
    assert_whole,
    eventually,
    in_thread,
    in_threads,
    one,
    request,
    request_finished,
    request_started,
    server_id,
    sql,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import Observer

pytestmark = pytest.mark.never("sqlite3")

IDLE = 4


@pytest.fixture
def account(observer: Observer) -> Iterator[dict[str, Any]]:
    """Of somebody for whom a server that is read-only is that."""
    name = f"writer_{uuid4().hex[:8]}"
    if MYSQL:
        observer.rows(f"CREATE USER '{name}'@'%' IDENTIFIED BY 'secret'")
        observer.rows(f"GRANT ALL ON {observer.name}.* TO '{name}'@'%'")
    yield {"USER": name, "PASSWORD": "secret"} if MYSQL else {}
    read_only(observer, False)
    if MYSQL:
        observer.rows(f"DROP USER '{name}'@'%'")
    else:
        eventually(lambda: sql("SHOW default_transaction_read_only") == [("off",)])


def read_only(observer: Observer, how: bool) -> None:
    """What a failover's tool does to the server that was the primary."""
    if MYSQL:
        observer.rows(f"SET GLOBAL read_only = {int(how)}")
    else:
        observer.rows(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if how else 'off'}")
        observer.rows("SELECT pg_reload_conf()")


def write(alias: str) -> bool:
    def work() -> bool:
        try:
            with transaction.atomic(alias):
                Note.objects.using(alias).create(text="a")
        except DatabaseError as error:
            assert re.search("read.only", str(error), re.IGNORECASE), error
            return False
        return True

    return bool(request(work))


def writes_until(alias: str, wanted: bool) -> None:
    """The server may take a moment to be told. On a connection of its own."""
    with another_alias(**{key: connections.settings[alias][key] for key in ("USER", "PASSWORD")}) as other:

        def found() -> bool:
            pooling.close_all(other)
            return write(other) is wanted

        eventually(found)


def opened(alias: str) -> int:
    return pooling.stats(alias).opened


def make_idle(alias: str) -> None:
    in_threads([lambda: request(lambda: one(alias))] * IDLE)
    assert_whole(alias)
    pooling.set_pool_size(IDLE, max_outstanding=IDLE, alias=alias)
    eventually(lambda: pooling.stats(alias).idle == IDLE)


def test_the_first_write_that_a_server_refuses_replaces_all_that_were_opened_before(
    account: dict[str, Any], observer: Observer, caplog: pytest.LogCaptureFixture
) -> None:
    with another_alias(**account) as alias:
        pooling.set_pool_size(IDLE, max_outstanding=IDLE, alias=alias)
        make_idle(alias)
        before = opened(alias)
        assert write(alias)
        read_only(observer, True)
        writes_until(alias, False)
        assert not write(alias)
        read_only(observer, False)
        writes_until(alias, True)
        # As if this were the new primary: no other write fails.
        assert [in_thread(lambda: write(alias)) for _ in range(3 * IDLE)] == [True] * 3 * IDLE
        eventually(lambda: pooling.stats(alias).closed_by_reason["recycled"] == IDLE)
        assert opened(alias) > before
        eventually(lambda: "server is the wrong one" in caplog.text)
        assert_whole(alias)


def test_while_there_is_no_other_server_connections_are_replaced_now_and_then_only(
    account: dict[str, Any], observer: Observer
) -> None:
    with another_alias(**account) as alias:
        make_idle(alias)
        read_only(observer, True)
        writes_until(alias, False)
        before = opened(alias)
        for _ in range(20):
            assert not write(alias)
        # Twenty writes take less than two of these times.
        assert opened(alias) - before <= 2 * IDLE
        [pool] = registry.pools(alias)
        pool._replaced_at -= REPLACING
        assert not write(alias)
        read_only(observer, False)
        writes_until(alias, True)
        assert write(alias)


@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_a_replica_that_refuses_a_write_costs_no_connection(
    account: dict[str, Any], observer: Observer, scope: str
) -> None:
    read_only(observer, True)
    with another_alias(**account, POOL={"SCOPE": scope}) as alias:
        writes_until(alias, False)
        for _ in range(5):
            assert not write(alias)
        [pool] = registry.pools(alias)
        pool._replaced_at -= REPLACING
        for _ in range(5):
            assert not write(alias)
        assert opened(alias) == 1


def test_a_replica_that_becomes_a_primary_and_ends_as_one_is_noticed(
    account: dict[str, Any], observer: Observer
) -> None:
    read_only(observer, True)
    with another_alias(**account) as alias:
        writes_until(alias, False)
        assert not write(alias)
        read_only(observer, False)
        writes_until(alias, True)
        pooling.close_all(alias)
        if DRIVER == "mysqlclient":
            # It is asked once.
            return
        assert write(alias)
        read_only(observer, True)
        writes_until(alias, False)
        assert not write(alias)
        read_only(observer, False)
        writes_until(alias, True)
        assert write(alias)


def test_a_transaction_that_was_to_write_nothing_costs_no_connection() -> None:
    """What it refuses is no word on the server."""

    def of_the_transaction() -> None:
        if MYSQL:
            sql("SET TRANSACTION READ ONLY")
        with transaction.atomic():
            if POSTGRESQL:
                sql("SET TRANSACTION READ ONLY")
            Note.objects.create(text="refused")

    def by_text() -> None:
        sql("START TRANSACTION READ ONLY")
        Note.objects.create(text="refused")

    def of_the_session() -> None:
        sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY" if POSTGRESQL else "SET tx_read_only = 1")
        Note.objects.create(text="refused")

    in_threads([one] * IDLE)
    for work in (of_the_transaction, by_text, of_the_session):
        request(one)
        closed = pooling.stats("default").closed_by_reason["recycled"]
        broken = pooling.stats("default").closed_by_reason["broken"]
        with pytest.raises(DatabaseError, match="(?i)read.only"):
            request(work)
        request(one)
        assert pooling.stats("default").closed_by_reason["recycled"] == closed
        if DRIVER in ("pymysql", "psycopg"):
            # These make a changed session as new, the others close it.
            assert pooling.stats("default").closed_by_reason["broken"] == broken
    assert_whole()


# -- this connection only --------------------------------------------------------------------------------


PREPARING = {"server_side_binding": True, "prepare_threshold": 1}


@pytest.fixture
def shape(fresh_pool: None) -> Iterator[Callable[[str], None]]:
    def alter(column: str) -> None:
        sql(f"ALTER TABLE shape {column}")

    sql("DROP TABLE IF EXISTS shape")
    sql("CREATE TABLE shape (a INT)")
    yield alter
    sql("DROP TABLE shape")


@pytest.mark.only("psycopg")
def test_a_cached_plan_of_another_shape_fails_once(shape: Callable[[str], None]) -> None:
    with another_alias(OPTIONS=PREPARING) as alias:

        def work() -> None:
            sql("SELECT * FROM shape", using=alias)

        for _ in range(5):
            request(work)
        assert opened(alias) == 1
        shape("ADD COLUMN b INT")
        failed = 0
        for _ in range(5):
            try:
                request(work)
            except DatabaseError:
                failed += 1
        assert failed == 1
        assert opened(alias) == 2


@pytest.mark.only("psycopg")
def test_a_prepared_statement_that_is_gone_fails_once() -> None:
    with another_alias(OPTIONS=PREPARING) as alias:

        def work() -> None:
            sql("SELECT 1", using=alias)

        for _ in range(5):
            request(work)

        def behind_the_drivers_back() -> None:
            connections[alias].connection.pgconn.exec_(b"DEALLOCATE ALL")

        request_started()
        one(alias)
        behind_the_drivers_back()
        request_finished()
        failed = 0
        for _ in range(5):
            try:
                request(work)
            except DatabaseError:
                failed += 1
        assert failed == 1
        assert opened(alias) == 2


@pytest.mark.only("psycopg", "psycopg2")
def test_a_feature_that_is_not_supported_is_no_reason_to_close(shape: Callable[[str], None]) -> None:
    def work() -> None:
        with pytest.raises(DatabaseError, match="FOR UPDATE"):
            sql("SELECT a FROM shape GROUP BY a FOR UPDATE")

    before = request(server_id)
    request(work)
    assert request(server_id) == before


# Its object still has a user, so only its socket is closed.
@pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")
@pytest.mark.only("psycopg", "psycopg2")
@pytest.mark.parametrize("direction", ["FROM STDIN", "TO STDOUT"])
def test_a_copy_that_was_left_half_way_is_nobody_elses(shape: Callable[[str], None], direction: str) -> None:
    def work() -> None:
        with connections["default"].cursor() as cursor:
            if DRIVER == "psycopg":
                copying = cursor.copy(f"COPY shape {direction}")
                copying.__enter__()
                kept.append(copying)
            else:
                # It says that this isn't the way to copy.
                cursor.execute(f"COPY shape {direction}")

    kept: list[Any] = []
    for _ in range(3):
        with suppress(DatabaseError):
            request(work)
        assert request(lambda: sql("SELECT 'mine'")) == [("mine",)]
        assert pooling.stats("default").in_use == 0
    assert_whole()
