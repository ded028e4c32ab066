"""What only watches (looks at a statement, counts, notes) never decides what a statement comes to."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from django_db_pooling import pooling
from django_db_pooling.process.observers import observers
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    MYSQL,
    POSTGRESQL,
    assert_whole,
    committed,
    eventually,
    one,
    request_finished,
    request_started,
    sql,
)
from tests.behaviour.models import Note

CHANGE = "SET @mine = 1" if MYSQL else "SET my.own = '1'" if POSTGRESQL else "PRAGMA cache_size = 123"


class Ours(Exception):
    """A fault of this package."""


class Failing:
    """Whatever is done with it."""

    def __getattr__(self, name: str) -> Any:
        raise Ours(name)

    def __getitem__(self, key: Any) -> Any:
        raise Ours

    def __setitem__(self, key: Any, value: Any) -> None:
        raise Ours

    def __iadd__(self, other: Any) -> Any:
        raise Ours

    def __add__(self, other: Any) -> Any:
        raise Ours


class FailingNotes(list[Any]):
    def append(self, note: Any) -> None:
        raise Ours


def fails(*arguments: Any, **options: Any) -> Any:
    raise Ours


def _of_driver(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(registry.by_alias["default"].driver, name, fails)


def _durations(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(
        getattr(registry.by_alias["default"].counts, name), "buckets", Failing()
    )


# Not each driver is asked for all of them.
OF_DRIVERS = ("in_transaction", "is_clean", "unread", "session_changed", "evicts")
FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    **{name: _of_driver(name) for name in OF_DRIVERS},
    "rules": lambda patch: patch.setattr(registry.by_alias["default"].driver, "rules", Failing()),
    "busy_seconds": lambda patch: patch.setattr(
        registry.by_alias["default"].counts, "busy_seconds", Failing()
    ),
    "waits": _durations("waits"),
    "helds": _durations("helds"),
    "connects": _durations("connects"),
    "notes": lambda patch: patch.setattr(registry.by_alias["default"].journal, "_notes", FailingNotes()),
}


@pytest.fixture(autouse=True)
def new_observers() -> Iterator[None]:
    observers.every_second()
    observers.tasks._failing.clear()
    yield


def work() -> None:
    """What a request may do, and what it gets."""
    request_started()
    try:
        one()
        with pytest.raises(DatabaseError):
            sql("SELECT * FROM no_such_table")
        with transaction.atomic():
            Note.objects.create(text="a")
            sql(CHANGE)
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            Note.objects.create(text="b")
            raise ZeroDivisionError
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO behaviour_note (text) VALUES (%s)", [("c",), ("d",)])
        connection.close()
        assert Note.objects.count() == 3
    finally:
        request_finished()


@pytest.mark.parametrize("scope", ["request", "transaction"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_ours_changes_nothing_and_is_logged_once(
    fault: str, scope: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one()
    request_finished()
    with pooling.scope(scope), monkeypatch.context() as patch:  # type: ignore[arg-type]
        FAULTS[fault](patch)
        work()
        assert committed() == ["a", "c", "d"]
        Note.objects.all().delete()
        work()
        assert committed() == ["a", "c", "d"]
    observers.every_second()
    told = [record for record in caplog.records if "Ours" in record.getMessage()]
    tasks = [record.__dict__["pool_task"] for record in told]
    assert len(tasks) == len(set(tasks))
    assert all(record.levelno == logging.ERROR for record in told)
    assert tasks or fault not in ("rules", "busy_seconds")
    assert_whole()


@pytest.mark.parametrize("name", ["broken", "evicts", "interrupted"])
def test_a_fault_of_ours_does_not_hide_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def divide(execute: Any, *arguments: Any) -> Any:
        with connection.wrap_database_errors:
            raise ZeroDivisionError

    one()
    with monkeypatch.context() as patch:
        patch.setattr(registry.by_alias["default"].driver, name, fails)
        with pytest.raises(DatabaseError, match="no_such_table"):
            sql("SELECT * FROM no_such_table")
    one()
    with monkeypatch.context() as patch:
        patch.setattr(registry.by_alias["default"].driver, name, fails)
        with pytest.raises(ZeroDivisionError), connection.execute_wrapper(divide):
            one()
    request_finished()
    request_started()
    one()
    assert_whole()


def test_where_a_statement_is_not_understood_the_session_is_not_handed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one()
    with monkeypatch.context() as patch:
        FAULTS["rules"](patch)
        sql(CHANGE)
    request_finished()
    request_started()
    if MYSQL:
        assert sql("SELECT @mine") == [(None,)]
    elif POSTGRESQL:
        assert sql("SELECT coalesce(current_setting('my.own', true), '')") == [("",)]
    else:
        assert sql("PRAGMA cache_size") != [(123,)]


class Killed(BaseException):
    """As gevent.Timeout."""


@pytest.mark.parametrize("name", ["rules", "is_clean"])
def test_who_is_killed_while_it_watches_is_killed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one()

    def kill(*arguments: Any) -> Any:
        raise Killed

    driver: Any = registry.by_alias["default"].driver
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if name == "rules":
            patch.setattr(driver, "text", kill)
            sql(b"SELECT 1")  # type: ignore[arg-type]
        else:
            patch.setattr(driver, name, kill)
            connection.close()
    eventually(lambda: pooling.stats("default").in_use <= 1)
    connection.close()
    assert_whole()


class TimeIsUp(Exception):
    """As Celery's SoftTimeLimitExceeded."""


@pytest.mark.only("threads")
def test_what_a_signals_handler_raises_is_not_taken_for_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    one()

    def handler(number: int, frame: Any) -> None:
        raise TimeIsUp

    def struck(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with monkeypatch.context() as patch, pytest.raises(TimeIsUp):
            patch.setattr(registry.by_alias["default"].driver, "text", struck)
            sql(b"SELECT 1")  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not observers._failures
    connection.close()
    assert_whole()
