"""What the tests of transaction scope with the rest of Django share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import (
    connections,
)

from django_db_pooling import pooling
from tests.behaviour.conftest import (
    MYSQL,
    POSTGRESQL,
    another_alias,
    eventually,
    plain,
    request_finished,
    request_started,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import Observer

servers = pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2")
# mysqlclient lets no other greenlet run while it waits for the server.
cooperative = pytest.mark.never("mysqlclient", "gevent")

POOL = {"SCOPE": "transaction", "SIZE": 2, "MAX_OUTSTANDING": 4}

# What views and hooks have to say.
told: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    told.clear()


def add(text: str, using: str = "default") -> None:
    Note.objects.using(using).create(text=text)


def texts(using: str = "default") -> list[str]:
    return list(Note.objects.using(using).order_by("id").values_list("text", flat=True))


def in_use(using: str = "default") -> int:
    return pooling.stats(using).in_use


def checkouts(using: str = "default") -> int:
    return pooling.stats(using).checkouts


@contextmanager
def brief(**changes: Any) -> Iterator[str]:
    """An alias with transaction scope also in requests."""
    with another_alias(**({"POOL": POOL} | changes)) as alias:
        yield alias


@contextmanager
def unpooled(**changes: Any) -> Iterator[str]:
    """An alias whose wrapper is Django's own, which no pool knows."""
    with another_alias(**changes) as alias, plain(alias) as wrapper:
        connections[alias] = wrapper
        yield alias


@contextmanager
def request() -> Iterator[None]:
    request_started()
    try:
        yield
    finally:
        request_finished()


INSERT = "INSERT INTO behaviour_note (text) VALUES (%s)"


def add_many(many: Iterable[Any], using: str = "default") -> None:
    with connections[using].cursor() as cursor:
        cursor.executemany(INSERT, [(text,) for text in many])


class Killed(BaseException):
    """As GreenletExit, for a thread."""


class TooLate(Exception):
    """As a time limit, for a thread."""


def open_transactions(observer: Observer) -> int:
    """How many the server has."""
    if MYSQL:
        [(_, _, status)] = observer.rows("SHOW ENGINE INNODB STATUS")
        return sum(", ACTIVE" in line for line in status.splitlines() if line.startswith("---TRANSACTION"))
    if POSTGRESQL:
        [(count,)] = observer.rows(
            "SELECT count(*) FROM pg_stat_activity"
            f" WHERE datname = '{observer.name}' AND (xact_start IS NOT NULL OR state <> 'idle')"
        )
        return int(count)
    with plain() as wrapper:
        try:
            wrapper.ensure_connection()
            wrapper.connection.execute("PRAGMA busy_timeout = 0")
            wrapper.connection.execute("BEGIN EXCLUSIVE")
            wrapper.connection.rollback()
        except wrapper.Database.OperationalError:
            return 1
    return 0


def assert_exact(using: str, observer: Observer) -> None:
    """Our count, the server's count, and no transaction."""
    eventually(lambda: (in_use(using), pooling.stats(using).opening) == (0, 0))
    assert pooling.stats(using).waiting == 0
    eventually(lambda: open_transactions(observer) == 0)
    # The default alias has the same database.
    eventually(lambda: observer.count() == sum(pooling.stats(name).idle for name in {using, "default"}))
