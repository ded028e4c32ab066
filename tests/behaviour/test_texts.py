"""What changes a session is seen in statements that are no plain text, too, and whatever the vendor."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import DatabaseError, connection, connections, transaction

from django_db_pooling import pooling
from django_db_pooling.process.observers import observers
from tests.behaviour.conftest import (
    MYSQL,
    POSTGRESQL,
    another_alias,
    assert_whole,
    committed,
    one,
    request,
    request_finished,
    sql,
)
from tests.behaviour.observer import DRIVER

CHANGE = "SET @mine = 1" if MYSQL else "SET my.own = '1'" if POSTGRESQL else "PRAGMA cache_size = 123"
COMPOSING = {"psycopg": "psycopg.sql", "psycopg2": "psycopg2.sql"}


@pytest.fixture(autouse=True)
def no_failures() -> Iterator[None]:
    observers.every_second()
    observers.tasks._failing.clear()
    yield
    assert not observers._failures


@pytest.fixture
def cleaned() -> Callable[[], int]:
    """How many sessions were reset or closed in this test."""

    def count() -> int:
        stats = pooling.stats("default")
        return stats.resets + stats.closed

    one()
    request_finished()
    before = count()
    return lambda: count() - before


@pytest.mark.never("sqlite3")
def test_bytes_are_read(cleaned: Callable[[], int]) -> None:
    statement: Any = b"SELECT 1"
    assert request(lambda: sql(statement)) == [(1,)]
    assert cleaned() == 0
    statement = CHANGE.encode()
    request(lambda: sql(statement))
    assert cleaned() == 1


@pytest.mark.only("psycopg", "psycopg2")
@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_composed_statements_are_read(scope: Any, cleaned: Callable[[], int]) -> None:
    composing: Any = pytest.importorskip(COMPOSING[DRIVER])
    table, column = composing.Identifier("behaviour_note"), composing.Identifier("text")
    insert = composing.SQL("INSERT INTO {} ({}) VALUES ({})").format(table, column, composing.Literal("a"))
    change = composing.SQL("SET {} = '1'").format(composing.Identifier("my", "own"))

    def write() -> None:
        with pooling.scope(scope):
            sql(insert)
            with transaction.atomic():
                sql(insert)

    request(write)
    assert committed() == ["a", "a"]
    assert cleaned() == 0

    def set_own() -> None:
        with pooling.scope(scope):
            sql(change)

    request(set_own)
    assert cleaned() == 1
    assert_whole()


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


@pytest.mark.only("psycopg")
def test_a_literal_of_a_type_that_is_registered_on_the_connection(cleaned: Callable[[], int]) -> None:
    from psycopg import sql as composing
    from psycopg.adapt import Dumper

    class PointDumper(Dumper):
        def dump(self, obj: Any) -> bytes:
            return str(obj.x).encode()

    def work() -> Any:
        one()
        connection.connection.adapters.register_dumper(Point, PointDumper)
        with connection.cursor() as cursor:
            cursor.execute(composing.SQL("SELECT {}").format(composing.Literal(Point(7))))
            return cursor.fetchall()

    assert request(work) == [("7",)]
    assert cleaned() == 0


@pytest.mark.only("psycopg", "psycopg2")
@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_what_cant_be_read_is_executed_and_counts_as_a_change(
    scope: Any, cleaned: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    composing: Any = pytest.importorskip(COMPOSING[DRIVER])

    class Once(composing.SQL):  # type: ignore[misc]
        """It can be read by the driver and by nobody else."""

        def as_string(self, context: Any = None) -> str:
            if hasattr(self, "was_read"):
                raise ZeroDivisionError
            self.was_read = True
            return str(super().as_string(context))

        def as_bytes(self, context: Any = None) -> bytes:
            return self.as_string(context).encode()

    def work() -> Any:
        with pooling.scope(scope), transaction.atomic():
            return [sql(Once(f"SELECT {number}")) for number in range(2)]

    assert request(work) == [[(0,)], [(1,)]]
    assert cleaned() == 1
    observers.every_second()
    assert len([text for text in caplog.messages if "ZeroDivisionError" in text]) == 1
    assert_whole()


@pytest.mark.only("psycopg")
def test_templates_are_read(cleaned: Callable[[], int]) -> None:
    pytest.importorskip("string.templatelib")
    name = f"x{uuid.uuid4().hex}"
    change: Any = eval("t\"SET my.{name:i} = '1'\"", {"name": name})
    select: Any = eval('t"SELECT {name}"', {"name": name})
    assert request(lambda: sql(select)) == [(name,)]
    assert cleaned() == 0
    request(lambda: sql(change))
    assert cleaned() == 1


@pytest.mark.only("psycopg", "psycopg2")
@pytest.mark.parametrize("scope", ["request", "transaction"])
@pytest.mark.parametrize(
    ("statement", "params"),
    [
        ("SELECT set_config('my.own', %(name)s, true)", {"name": "a"}),
        ("SELECT set_config('my.own', %s, true)", ("a",)),
        ("SELECT set_config('my.own', coalesce(%(name)s, lower('(')), TRUE )", {"name": "a"}),
    ],
)
def test_a_local_setting_with_parameters_changes_no_session(
    statement: str, params: Any, scope: Any, cleaned: Callable[[], int]
) -> None:
    """Audit packages put one in front of their statements."""
    pins = pooling.stats("default").pins

    def work() -> None:
        with pooling.scope(scope), connection.cursor() as cursor:
            cursor.execute(statement, params)
        assert scope == "request" or pooling.stats("default").in_use == 0

    request(work)
    assert cleaned() == 0
    assert pooling.stats("default").pins == pins


def test_the_rules_are_those_of_the_driver_and_not_of_the_vendor() -> None:
    pool = {"SIZE": 1, "MAX_OUTSTANDING": 1}
    with another_alias(ENGINE="tests.behaviour.vendor_engine", POOL=pool) as alias:

        def create() -> None:
            assert connections[alias].vendor == "nobody else's"
            sql("CREATE TEMPORARY TABLE mine (a INT)", using=alias)

        request(create)
        with pytest.raises(DatabaseError, match="mine"):
            request(lambda: sql("SELECT * FROM mine", using=alias))
        stats = pooling.stats(alias)
        assert stats.resets + stats.closed >= 1
