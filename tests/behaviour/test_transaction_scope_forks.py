"""Transaction scope with the rest of Django: forks."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from django.db import (
    Error,
    connection,
    connections,
    transaction,
)

from django_db_pooling import pooling
from tests.behaviour.brief import (
    INSERT,
    add,
    add_many,
    in_use,
    nothing_told,  # noqa: F401
    told,
)
from tests.behaviour.conftest import (
    DRIVER,
    PATIENCE,
    committed,
    eventually,
    in_thread,
    server_id,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import Observer
from tests.behaviour.test_fork import child_with_its_own_connection, complaints
from tests.concurrency import in_child

pytestmark = [pytest.mark.transaction_scope, pytest.mark.usefixtures("nothing_told")]


@contextmanager
def nothing_to_complain_of(observer: Observer) -> Iterator[None]:
    """For the server, whatever the children do."""
    before = complaints(observer)
    yield
    connections.close_all()
    assert pooling.close_all(timeout=PATIENCE)
    eventually(lambda: observer.count() == 0)
    assert complaints(observer) == before


def in_a_thread_of_the_child() -> Any:
    return in_thread(child_with_its_own_connection)


def test_a_fork_in_a_block_that_has_not_begun(observer: Observer) -> None:
    """The child's block begins on a connection of its own, with its own first statement."""

    def child() -> list[Any]:
        still = connection.in_atomic_block
        number = server_id()
        add("never")
        # In a block it is really closed.
        connection.close()
        # Which breaks the block as in Django, and is no concern of another thread's.
        return [still, number, in_a_thread_of_the_child()]

    with nothing_to_complain_of(observer):
        with transaction.atomic():
            transaction.on_commit(lambda: told.append("hook"))
            still, theirs, (in_use_there, idle_there, _) = in_child(child)
            assert (still, in_use_there, idle_there) == (True, 0, 0)
            assert in_use() == 0
            add("parent")
            assert connection.vendor == "sqlite" or server_id() != theirs
            assert committed() == []
        assert told == ["hook"]
        assert committed() == ["parent"]
        assert in_use() == 0


def test_a_child_may_finish_a_block_that_has_not_begun_for_itself(observer: Observer) -> None:
    with nothing_to_complain_of(observer):
        block = transaction.atomic()
        block.__enter__()

        def child() -> int:
            add("child")
            block.__exit__(None, None, None)
            held_afterwards = in_use()
            connections.close_all()
            pooling.close_all()
            return held_afterwards

        assert in_child(child) == 0
        assert committed() == ["child"]
        add("parent")
        block.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        assert in_use() == 0
        assert committed() == ["child"]


def test_a_fork_in_a_block_that_has_begun(observer: Observer) -> None:
    """In the child the parent's block can only fail; whoever leaves it has connections of his own."""

    def child() -> list[Any]:
        before = in_use()
        with pytest.raises(Error):
            add("never")
        return [before, in_a_thread_of_the_child()]

    with nothing_to_complain_of(observer):
        with transaction.atomic():
            add("before")
            number = server_id()
            before, (in_use_there, idle_there, theirs) = in_child(child)
            assert (before, in_use_there, idle_there) == (0, 0, 0)
            assert connection.vendor == "sqlite" or (server_id() == number and theirs != number)
            assert in_use() == 1
            add("after")
            assert committed() == []
        assert committed() == ["before", "after"]
        assert in_use() == 0


def test_a_child_that_leaves_the_parents_block_goes_on_with_its_own_connection(observer: Observer) -> None:
    class Leave(Exception):
        pass

    with nothing_to_complain_of(observer):
        block = transaction.atomic()
        block.__enter__()
        add("parent")

        def child() -> list[Any]:
            with suppress(Error):
                block.__exit__(Leave, Leave(), None)
            if DRIVER != "sqlite3":
                # There the parent has the lock.
                add("child")
            return [connection.in_atomic_block, *child_with_its_own_connection()[:2]]

        assert in_child(child)[:2] == [False, 0]
        add("after")
        block.__exit__(None, None, None)
        assert [text for text in committed() if text != "child"] == ["parent", "after"]
        assert ("child" in committed()) == (DRIVER != "sqlite3")
        assert in_use() == 0


def test_a_fork_with_an_open_cursor(observer: Observer) -> None:
    with nothing_to_complain_of(observer):
        cursor = connection.cursor()
        number = server_id()
        cursor.execute("SELECT 42")

        def child() -> Any:
            told_there = child_with_its_own_connection()
            with suppress(Error):
                cursor.close()
            return [*told_there, in_use()]

        in_use_there, idle_there, theirs, in_use_afterwards = in_child(child)
        assert (in_use_there, idle_there, in_use_afterwards) == (0, 0, 0)
        assert connection.vendor == "sqlite" or (theirs != number and server_id() == number)
        assert cursor.fetchall() in ([(42,)], ((42,),))
        cursor.execute(INSERT, ["parent"])
        assert in_use() == 1
        cursor.close()
        assert in_use() == 0
        assert committed() == ["parent"]


@pytest.mark.parametrize("in_a_block", [True, False])
def test_a_fork_while_an_iterator_is_read(in_a_block: bool, observer: Observer) -> None:
    """On PostgreSQL it is a cursor of the server's, which the child must not close or read from."""
    add_many("abcdef")
    with nothing_to_complain_of(observer):
        if in_a_block:
            block = transaction.atomic()
            block.__enter__()
        notes = [Note.objects.order_by("id").iterator(chunk_size=1)]
        seen = [next(notes[0]).text, next(notes[0]).text]

        def child() -> Any:
            notes.clear()
            gc.collect()
            return in_a_thread_of_the_child()

        assert in_child(child)[:2] == [0, 0]
        seen += [note.text for note in notes.pop()]
        assert seen == [*"abcdef"]
        if in_a_block:
            add("parent")
            block.__exit__(None, None, None)
        gc.collect()
        assert in_use() == 0
        assert len(committed()) == 6 + in_a_block
