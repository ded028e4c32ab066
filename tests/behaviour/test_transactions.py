"""Transactions are Django's: whole, on one physical connection, and never left to the next user."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from django.core import signals
from django.db import (
    Error,
    IntegrityError,
    close_old_connections,
    connection,
    connections,
    transaction,
)
from django.db.transaction import TransactionManagementError

from django_db_pooling import pooling
from tests.behaviour.conftest import (
    BEGIN,
    MYSQL,
    PATIENCE,
    another_alias,
    assert_whole,
    committed,
    eventually,
    in_thread,
    in_threads,
    one,
    request_finished,
    request_started,
    server_id,
    sql,
    token,
)
from tests.behaviour.models import Note


def add(text: str, using: str = "default") -> None:
    Note.objects.using(using).create(text=text)


def add_in_autocommit() -> None:
    """The next user's insert, seen by everybody at once: no transaction is open, autocommit is on."""

    def request() -> None:
        request_started()
        assert connection.get_autocommit()
        add("next user")
        assert "next user" in committed()
        request_finished()

    in_thread(request)


@contextmanager
def without_close_old_connections() -> Iterator[None]:
    for signal in (signals.request_started, signals.request_finished):
        signal.disconnect(close_old_connections)
    try:
        yield
    finally:
        for signal in (signals.request_started, signals.request_finished):
            signal.connect(close_old_connections)


def test_atomic_commits() -> None:
    with transaction.atomic():
        add("a")
        add("b")
        assert committed() == []
    assert committed() == ["a", "b"]


def test_atomic_rolls_back_at_an_exception_and_the_request_goes_on() -> None:
    request_started()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        add("a")
        raise ZeroDivisionError
    add("b")
    assert committed() == ["b"]
    request_finished()
    assert_whole()


def test_all_statements_of_an_atomic_run_on_one_physical_connection() -> None:
    """Other threads take and give back all the time, so a second checkout would get another one."""
    stop = threading.Event()

    def others() -> None:
        while not stop.is_set():
            request_started()
            one()
            request_finished()
            # A driver that blocks gevent would never let anybody else run.
            time.sleep(0)

    def atomic() -> set[int]:
        try:
            found = set()
            for _ in range(5):
                request_started()
                with transaction.atomic():
                    numbers = {server_id() for _ in range(5)}
                    with transaction.atomic():
                        numbers.add(server_id())
                request_finished()
                found.add(len(numbers))
            return found
        finally:
            stop.set()

    assert in_threads([atomic, others, others])[0] == {1}


def test_an_inner_atomic_rolls_back_alone() -> None:
    with transaction.atomic():
        add("outer")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            add("inner")
            raise ZeroDivisionError
        with transaction.atomic():
            add("second")
    assert committed() == ["outer", "second"]


def test_set_rollback_undoes_an_atomic() -> None:
    with transaction.atomic():
        add("a")
        transaction.set_rollback(True)
    assert committed() == []
    add_in_autocommit()


def test_after_a_database_error_the_atomic_is_broken_until_it_ends() -> None:
    add("a")
    key = Note.objects.get().pk
    with pytest.raises(IntegrityError), transaction.atomic():
        add("b")
        Note.objects.create(pk=key, text="twice")
    with transaction.atomic():
        with pytest.raises(IntegrityError):
            Note.objects.create(pk=key, text="twice")
        with pytest.raises(TransactionManagementError):
            one()
        transaction.set_rollback(True)
    assert committed() == ["a"]
    add_in_autocommit()


def test_on_commit_hooks_run_once_after_the_commit_and_may_query() -> None:
    seen = []
    with transaction.atomic():
        add("a")
        with transaction.atomic():
            transaction.on_commit(lambda: seen.append(committed()))
        transaction.on_commit(lambda: add("by a hook"))
        assert seen == []
    assert seen == [["a"]]
    assert committed() == ["a", "by a hook"]
    request_finished()
    request_started()
    with transaction.atomic():
        add("b")
    assert committed() == ["a", "by a hook", "b"]


def test_on_commit_hooks_do_not_run_after_a_rollback_and_do_not_reach_the_next_user() -> None:
    seen = []

    def request() -> None:
        request_started()
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            transaction.on_commit(lambda: seen.append("rolled back"))
            one()
            raise ZeroDivisionError
        transaction.atomic().__enter__()
        transaction.on_commit(lambda: seen.append("left open"))
        add("a")
        request_finished()
        with transaction.atomic():
            one()

    request()
    in_thread(request)
    assert seen == []


def test_on_commit_without_a_transaction_runs_at_once() -> None:
    seen = []
    transaction.on_commit(lambda: seen.append(1))
    assert seen == [1]


def test_a_transaction_that_set_autocommit_left_open_is_rolled_back_never_committed() -> None:
    request_started()
    transaction.set_autocommit(False)
    add("left open")
    request_finished()
    assert pooling.stats("default").in_use == 0
    assert committed() == []
    add_in_autocommit()
    assert connection.get_autocommit()
    add("here")
    assert committed() == ["next user", "here"]


def test_transactions_by_hand_work_as_in_django() -> None:
    request_started()
    transaction.set_autocommit(False)
    add("a")
    transaction.commit()
    add("b")
    transaction.rollback()
    add("c")
    transaction.commit()
    transaction.set_autocommit(True)
    request_finished()
    assert committed() == ["a", "c"]
    assert pooling.stats("default").idle == 1
    add_in_autocommit()


@pytest.mark.parametrize("end", [request_finished, lambda: connection.close()], ids=["request", "close"])
def test_a_begin_in_text_that_is_left_open_is_rolled_back(end: Callable[[], None]) -> None:
    request_started()
    sql(BEGIN)
    add("left open")
    end()
    assert pooling.stats("default").in_use == 0
    assert committed() == []
    add_in_autocommit()


def test_a_select_for_reading_only_in_an_open_transaction_is_ended_too() -> None:
    """A snapshot that stays open would show the next user old data."""
    request_started()
    if MYSQL:
        sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    sql(BEGIN)
    assert Note.objects.count() == 0
    request_finished()
    with another_alias() as other:
        add("new", using=other)
    assert [note.text for note in Note.objects.all()] == ["new"]


def test_an_atomic_begun_before_the_request_survives_its_end() -> None:
    """TestCase does that: the test client's requests run inside of its atomic.

    Django's own close_old_connections would close the connection; the test client disconnects it.
    """
    with without_close_old_connections(), transaction.atomic():
        add("before")
        number = server_id()
        request_started()
        add("in the request")
        with transaction.atomic():
            add("in its own atomic")
        request_finished()
        assert server_id() == number
        assert Note.objects.count() == 3
        assert committed() == []
        transaction.set_rollback(True)
    assert committed() == []
    assert_whole()


def test_an_atomic_begun_in_a_request_and_left_open_is_rolled_back_at_its_end() -> None:
    def request() -> None:
        request_started()
        transaction.atomic().__enter__()
        add("left open")
        request_finished()
        assert pooling.stats("default").in_use == 0
        assert committed() == []
        assert not connection.in_atomic_block
        request_started()
        add("the next request")
        assert committed() == ["the next request"]
        request_finished()

    in_thread(request)
    add_in_autocommit()


def test_an_atomic_left_open_around_an_inner_one_is_rolled_back_with_it() -> None:
    request_started()
    transaction.atomic().__enter__()
    add("outer")
    transaction.atomic().__enter__()
    add("inner")
    request_finished()
    assert committed() == []
    with transaction.atomic():
        add("after")
    assert committed() == ["after"]
    add_in_autocommit()


def test_close_inside_atomic_fails_the_rest_and_frees_the_slot() -> None:
    request_started()
    with pytest.raises(Error), transaction.atomic():
        add("a")
        connection.close()
        assert pooling.stats("default").in_use == 0
        with pytest.raises(Error):
            one()
        add("b")
    assert committed() == []
    add("c")
    assert committed() == ["c"]
    request_finished()
    assert_whole()


def test_close_inside_atomic_rolls_back_even_if_the_block_ends_without_an_error() -> None:
    with transaction.atomic():
        add("a")
        connection.close()
    assert committed() == []
    assert connection.get_autocommit()
    add("b")
    assert committed() == ["b"]


@pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2")
@pytest.mark.never("mysqlclient", "gevent")
def test_select_for_update_keeps_others_out() -> None:
    """Each reads a number, then writes it plus one: without the row's lock some would be lost."""
    add("0")
    together = threading.Barrier(4)

    def increment() -> None:
        together.wait(PATIENCE)
        for _ in range(5):
            request_started()
            with transaction.atomic():
                note = Note.objects.select_for_update().get()
                note.text = str(int(note.text) + 1)
                note.save()
            request_finished()

    in_threads([increment] * 4)
    assert committed() == ["20"]


@pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2")
def test_the_lock_of_a_transaction_left_open_is_gone_with_the_request() -> None:
    add("locked")
    request_started()
    transaction.atomic().__enter__()
    Note.objects.select_for_update().get()
    request_finished()

    def next_user() -> None:
        with transaction.atomic():
            Note.objects.select_for_update(nowait=True).get()

    in_thread(next_user)


def test_autocommit_off_in_settings_commits_only_by_hand() -> None:
    with another_alias(AUTOCOMMIT=False) as other:

        def request(text: str, commit: bool) -> None:
            request_started()
            assert not connections[other].get_autocommit()
            add(text, using=other)
            if commit:
                transaction.commit(using=other)
            request_finished()
            assert pooling.stats(other).in_use == 0

        request("a", commit=False)
        assert committed() == []
        request("b", commit=True)
        assert committed() == ["b"]
        in_thread(lambda: request("c", commit=False))
        assert committed() == ["b"]
        assert pooling.stats(other).opened == 1
        assert_whole(other)


def test_autocommit_off_in_settings_starts_each_request_with_a_new_snapshot() -> None:
    with another_alias(AUTOCOMMIT=False) as other:
        request_started()
        assert Note.objects.using(other).count() == 0
        request_finished()
        add("new")
        assert Note.objects.using(other).count() == 1


def test_a_durable_atomic_is_the_outermost_one_again_in_the_next_request() -> None:
    for _ in range(2):
        request_started()
        with transaction.atomic(durable=True):
            one()
            with pytest.raises(RuntimeError), transaction.atomic(durable=True):
                pass
        request_finished()


def test_savepoints_by_hand() -> None:
    with transaction.atomic():
        add("a")
        # Its name since Django 6.1.
        here = getattr(transaction, "savepoint_create", transaction.savepoint)()
        add("b")
        transaction.savepoint_rollback(here)
    assert committed() == ["a"]


@pytest.mark.never("sqlite3", "gevent")
def test_many_concurrent_transactions_are_each_whole() -> None:
    def work(number: int) -> None:
        for turn in range(4):
            request_started()
            try:
                with transaction.atomic():
                    add(f"{number}.{turn}")
                    token()
                    add(f"{number}.{turn}")
                    if turn % 2:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            request_finished()

    # SQLite has one writer at a time, and a deferred transaction that must wait to write is refused.
    writers = 1 if connection.vendor == "sqlite" else 8
    in_threads([lambda number=number: work(number) for number in range(writers)])  # type: ignore[misc]
    assert sorted(committed()) == sorted(f"{n}.{t}" for n in range(writers) for t in (0, 0, 2, 2))
    eventually(lambda: pooling.stats("default").in_use == 0)
    assert_whole()


def test_a_query_after_the_request_has_ended_is_in_autocommit() -> None:
    request_started()
    transaction.set_autocommit(False)
    add("left open")
    request_finished()
    add("after")
    assert committed() == ["after"]


def test_close_old_connections_ends_a_transaction_whose_connection_was_lost() -> None:
    """By an interruption, for example, which is no error of the database's: the next job begins anew."""
    for _ in range(2):
        # One that wasn't opened for this: what Django itself has opened it finds obsolete.
        one()
        connection.close()
        sql(BEGIN)
        add("lost")
        connection.lose()
        close_old_connections()
        token()
    connection.close()
    assert committed() == []
