"""Requests of which nobody tells the end: their response is never closed, or they were killed.

Their environ is collected at any later moment.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core import signals
from django.core.handlers.wsgi import WSGIHandler
from django.db import close_old_connections, connection, connections, transaction
from django.test import RequestFactory

from django_db_pooling import pooling
from tests.behaviour.conftest import (
    BEGIN,
    PATIENCE,
    assert_whole,
    committed,
    eventually,
    in_thread,
    one,
    request_finished,
    request_started,
    sql,
    token,
)
from tests.behaviour.models import Note

pytestmark = pytest.mark.transaction_scope


@pytest.fixture(autouse=True)
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def unclosed_request(in_a_cycle: bool = False) -> list[Any]:
    """As djangorestframework's RequestsClient makes one. Its environ lives in what this returns."""
    environ = RequestFactory().get("/count").environ
    if in_a_cycle:
        environ["itself"] = environ
    with connections_kept_open():
        assert b"".join(WSGIHandler()(environ, lambda *_: None)).isdigit()
    return [environ]


@contextmanager
def connections_kept_open() -> Iterator[None]:
    """As clients for tests have it during a request."""
    both = signals.request_started, signals.request_finished
    for signal in both:
        signal.disconnect(close_old_connections)
    try:
        yield
    finally:
        for signal in both:
            signal.connect(close_old_connections)


def add(text: str) -> None:
    Note.objects.create(text=text)


@pytest.mark.parametrize("in_a_cycle", [False, True])
def test_its_connection_goes_back_with_its_environ(in_a_cycle: bool) -> None:
    opened = pooling.stats("default").opened

    def work() -> None:
        kept = unclosed_request(in_a_cycle)
        assert pooling.stats("default").in_use == 1
        kept.clear()
        gc.collect()
        assert pooling.stats("default").in_use == 0
        # Nor does this thread take itself for a request any more.
        token()
        assert pooling.stats("default").in_use == 0

    in_thread(work)
    assert pooling.stats("default").opened == opened + 1


@pytest.mark.parametrize("in_a_cycle", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_block_begun_after_the_response_stays(in_a_cycle: bool, fails: bool) -> None:
    def work() -> None:
        kept = unclosed_request(in_a_cycle)
        with transaction.atomic():
            add("before")
            kept.clear()
            gc.collect()
            assert connection.in_atomic_block
            add("after")
            if fails:
                transaction.set_rollback(True)

    in_thread(work)
    assert committed() == ([] if fails else ["before", "after"])
    assert_whole()


@pytest.mark.parametrize("between", [0, 2])
def test_a_block_around_later_requests_stays(between: int) -> None:
    """As a test has it, which makes several requests in one transaction."""

    def work() -> None:
        kept = unclosed_request()
        with transaction.atomic():
            add("before")
            later = [unclosed_request() for _ in range(between)]
            kept.clear()
            later.reverse()
            del later
            gc.collect()
            add("after")

    in_thread(work)
    assert committed() == ["before", "after"]
    assert_whole()


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (lambda: transaction.set_autocommit(False), transaction.commit),
        pytest.param(lambda: sql(BEGIN), lambda: sql("COMMIT"), id="SQL"),
    ],
)
def test_a_transaction_begun_after_the_response_stays(
    begin: Callable[[], None], end: Callable[[], None]
) -> None:
    def work() -> None:
        kept = unclosed_request()
        begin()
        add("before")
        kept.clear()
        gc.collect()
        add("after")
        end()
        if not connection.get_autocommit():
            transaction.set_autocommit(True)

    in_thread(work)
    assert committed() == ["before", "after"]
    assert_whole()


def test_rows_that_are_being_read_after_the_response_are_read_to_their_end() -> None:
    def work() -> None:
        for number in range(5):
            add(str(number))
        kept = unclosed_request()
        rows = Note.objects.order_by("id").values_list("text", flat=True).iterator(chunk_size=1)
        seen = [next(rows)]
        kept.clear()
        gc.collect()
        seen += rows
        assert seen == ["0", "1", "2", "3", "4"]

    in_thread(work)
    assert_whole()


def test_the_next_request_of_the_thread_gives_back_what_stayed() -> None:
    def work() -> None:
        kept = unclosed_request()
        sql(BEGIN)
        kept.clear()
        gc.collect()
        request_started()
        assert pooling.stats("default").in_use == 0
        add("in autocommit")
        request_finished()
        assert pooling.stats("default").in_use == 0

    in_thread(work)
    assert committed() == ["in autocommit"]
    assert_whole()


@pytest.mark.only("threads")
def test_in_another_thread_nothing_is_taken_from_its_own() -> None:
    """Which may be between any two steps."""
    kept: list[list[Any]] = []
    is_collected, has_made_it = threading.Event(), threading.Event()

    def work() -> None:
        kept.append(unclosed_request())
        taken = connection.connection
        has_made_it.set()
        assert is_collected.wait(PATIENCE)
        assert connection.connection is taken
        one()
        request_started()
        one()
        request_finished()
        assert pooling.stats("default").in_use == 0
        # The thread is in no request any more.
        token()
        assert pooling.stats("default").in_use == 0

    def collect() -> None:
        assert has_made_it.wait(PATIENCE)
        kept.clear()
        gc.collect()
        is_collected.set()

    threads = [threading.Thread(target=collect)]
    threads[0].start()
    in_thread(work)
    threads[0].join()
    eventually(lambda: pooling.stats("default").in_use == 0)
    assert_whole()


def test_a_request_inside_of_another_one_keeps_nothing_alive() -> None:
    """Neither the wrapper nor the slot of the outer one: dropped, they are reclaimed at once."""
    # In a thread whose wrapper nobody has had before.
    in_thread(_lose_in_the_inner_request)
    assert_whole()


def _lose_in_the_inner_request() -> None:
    reclaimed = pooling.stats("default").reclaimed
    request_started()
    token()
    wrapper = connections["default"]
    with connections_kept_open():
        request_started()
    # As nobody does: the slot is gone with what refers to it.
    wrapper._lease = wrapper.connection = None
    assert pooling.stats("default").reclaimed == reclaimed + 1
    ref = weakref.ref(wrapper)
    del connections["default"]
    wrapper.break_cycles()
    del wrapper
    assert ref() is None
    request_finished()
    request_finished()
