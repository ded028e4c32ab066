"""Tracers see the statements of the project, and of this package none that would be a trace of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, transaction

from django_db_pooling import pooling
from tests.behaviour.conftest import (
    DRIVER,
    MYSQL,
    one,
    request,
    server_id,
    sql,
)

pytestmark = pytest.mark.only("pymysql", "psycopg")


class Traced:
    """Before a connection or a cursor, as OpenTelemetry and ddtrace have it, by wrapt."""

    def __init__(self, wrapped: Any, told: list[str]) -> None:
        self.__dict__.update(__wrapped__=wrapped, told=told)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__wrapped__, name, value)

    def __enter__(self) -> Any:
        self.__wrapped__.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> Any:
        return self.__wrapped__.__exit__(*exc_info)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.__wrapped__)

    def cursor(self, *arguments: Any, **keywords: Any) -> Any:
        return Traced(self.__wrapped__.cursor(*arguments, **keywords), self.told)

    def execute(self, statement: Any, *arguments: Any, **keywords: Any) -> Any:
        self.told.append(statement)
        return self.__wrapped__.execute(statement, *arguments, **keywords)


def by_proxies(monkeypatch: pytest.MonkeyPatch, told: list[str]) -> None:
    database = connection.Database
    connect = database.connect
    monkeypatch.setattr(database, "connect", lambda *args, **kwargs: Traced(connect(*args, **kwargs), told))


def by_the_classes_of_cursors(monkeypatch: pytest.MonkeyPatch, told: list[str]) -> None:
    """As OpenTelemetry does with psycopg."""
    connect = connection.Database.connect

    def traced(*arguments: Any, cursor_factory: Any, **keywords: Any) -> Any:
        class Cursor(cursor_factory):  # type: ignore[misc]
            def execute(self, statement: Any, *arguments: Any, **keywords: Any) -> Any:
                told.append(statement)
                return super().execute(statement, *arguments, **keywords)

        return connect(*arguments, cursor_factory=Cursor, **keywords)

    monkeypatch.setattr(connection.Database, "connect", traced)


WAYS = [by_proxies] if DRIVER == "pymysql" else [by_the_classes_of_cursors]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_reset_is_no_statement_of_somebodys(
    way: Callable[[pytest.MonkeyPatch, list[str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    pooling.release()
    pooling.close_all()
    way(monkeypatch, told)
    change = "SET @mine = 1" if MYSQL else "SET TIME ZONE 'Asia/Tokyo'"

    def work() -> None:
        one()
        # Those of the connect are inside of it.
        told.clear()
        with transaction.atomic():
            sql(change)
        transaction.set_autocommit(False)
        sql("SELECT 2")

    resets = pooling.stats("default").resets
    for _ in range(2):
        request(work)
        assert told == [change, "SELECT 2"]
    before = request(server_id)
    assert pooling.stats("default").resets == resets + 2
    asked = "SELECT @mine" if MYSQL else "SHOW TimeZone"
    assert request(lambda: sql(asked)) == [(None if MYSQL else "UTC",)]
    assert request(server_id) == before
    pooling.close_all()
