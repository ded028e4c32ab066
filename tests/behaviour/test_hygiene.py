"""Nothing of one user reaches the next: cursors, unread results, doubtful or dead connections."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import DatabaseError, connection, connections
from django.test.utils import CaptureQueriesContext

from django_db_pooling import drivers, pooling
from tests.behaviour.conftest import (
    DRIVER,
    MYSQL,
    PATIENCE,
    another_alias,
    assert_whole,
    committed,
    in_thread,
    one,
    request_finished,
    request_started,
    server_id,
    sql,
    token,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import Observer

ROWS = 500


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What a test drops is destroyed in that test."""
    yield
    gc.collect()


@pytest.fixture
def rows() -> None:
    Note.objects.bulk_create([Note(text=f"a long text, number {n} " + "x" * 60) for n in range(ROWS)])
    connection.close()


def test_a_cursor_kept_beyond_its_request_does_not_reach_the_next_user() -> None:
    """The next user has the same physical connection and is between two statements."""
    request_started()
    number = server_id()
    kept = connection.cursor()
    kept.execute("SELECT 1")
    request_finished()
    using = threading.Event()
    attempted = threading.Event()

    def next_user() -> None:
        request_started()
        assert server_id() == number or connection.vendor == "sqlite"
        using.set()
        assert attempted.wait(PATIENCE)
        token()
        request_finished()

    thread = threading.Thread(target=next_user)
    thread.start()
    assert using.wait(PATIENCE)
    try:
        with pytest.raises(Exception):  # noqa: B017 - each driver has its own
            kept.execute("SELECT 2")
    finally:
        attempted.set()
        thread.join(PATIENCE)
    token()
    assert_whole()


def test_a_cursor_kept_into_the_next_request_of_its_own_thread_is_dead_too() -> None:
    request_started()
    kept = connection.cursor()
    kept.execute("SELECT 1")
    request_finished()
    request_started()
    one()
    with pytest.raises(Exception):  # noqa: B017 - each driver has its own
        kept.execute("SELECT 2")
    token()
    request_finished()
    assert_whole()


def test_closing_a_cursor_after_its_request_harms_nobody() -> None:
    request_started()
    kept = connection.cursor()
    kept.execute("SELECT 1")
    request_finished()
    kept.close()
    token()
    assert_whole()


def test_a_raw_queryset_left_half_read_does_not_leak(rows: None) -> None:
    def request() -> Any:
        request_started()
        notes = iter(Note.objects.raw("SELECT id, text FROM behaviour_note"))
        next(notes)
        request_finished()
        return notes

    kept = request()
    token()
    in_thread(token)
    del kept
    assert_whole()


@pytest.mark.filterwarnings("ignore:.*deleted while still open:ResourceWarning")
def test_an_iterator_left_half_read_does_not_leak(rows: None) -> None:
    """On PostgreSQL it is a named cursor on the server, on SQLite a statement that is still running."""
    request_started()
    notes = Note.objects.iterator(chunk_size=2)
    next(notes)
    request_finished()

    def next_user() -> None:
        request_started()
        token()
        if connection.vendor == "postgresql":
            assert sql("SELECT count(*) FROM pg_cursors WHERE is_holdable") == [(0,)]
        Note.objects.all().delete()
        request_finished()

    in_thread(next_user)
    assert committed() == []
    with pytest.raises(Exception):  # noqa: B017 - each driver has its own
        for _ in range(ROWS):
            next(notes)
            if MYSQL:
                raise AssertionError("MySQL's result was read as a whole before")
    assert_whole()


@pytest.mark.filterwarnings("ignore:.*deleted while still open:ResourceWarning")
def test_an_iterator_dropped_half_read_does_not_leak(rows: None) -> None:
    def request() -> None:
        request_started()
        next(Note.objects.iterator(chunk_size=2))
        request_finished()

    for _ in range(6):
        in_thread(request)
    token()
    assert_whole()


@pytest.mark.only("pymysql", "mysqlclient")
@pytest.mark.parametrize("keep", [True, False])
def test_an_unbuffered_cursor_left_half_read_does_not_leak(keep: bool, rows: None) -> None:
    def request() -> Any:
        request_started()
        one()
        cursor = connection.connection.cursor(unbuffered_cursor_class())
        cursor.execute("SELECT text FROM behaviour_note")
        cursor.fetchone()
        request_finished()
        return cursor if keep else None

    kept = request()
    for _ in range(4):
        in_thread(token)
    token()
    del kept
    token()
    assert_whole()


@pytest.mark.only("pymysql", "mysqlclient")
def test_unbuffered_cursors_by_settings_do_not_leak(rows: None) -> None:
    with another_alias(OPTIONS={"cursorclass": unbuffered_cursor_class()}) as other:
        request_started()
        cursor = connections[other].cursor()
        cursor.execute("SELECT text FROM behaviour_note")
        cursor.fetchone()
        request_finished()
        for _ in range(4):
            in_thread(lambda: token(other))
        with pytest.raises(Exception):  # noqa: B017 - each driver has its own
            for _ in range(ROWS):
                assert cursor.fetchone() is not None
        assert_whole(other)


def unbuffered_cursor_class() -> Any:
    if DRIVER == "pymysql":
        from pymysql.cursors import SSCursor
    else:
        from MySQLdb.cursors import SSCursor
    return SSCursor


@pytest.mark.only("sqlite3")
def test_a_select_left_half_fetched_does_not_keep_the_files_lock(rows: None) -> None:
    request_started()
    cursor = connection.cursor()
    cursor.execute("SELECT text FROM behaviour_note")
    cursor.fetchone()
    request_finished()
    in_thread(lambda: Note.objects.all().delete())
    assert committed() == []


# Its cursors don't say that they are closed, and the error keeps one.
@pytest.mark.never("sqlite3")
def test_after_a_database_error_the_next_taker_asks_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = drivers.find(connection.Database)
    assert driver is not None
    opened = pooling.stats("default").opened
    asked: list[int] = []
    usable = driver.usable

    def spy(*args: Any) -> bool:
        asked.append(1)
        return usable(*args)

    monkeypatch.setattr(driver, "usable", spy, raising=False)
    request_started()
    one()
    request_finished()
    request_started()
    with pytest.raises(DatabaseError):
        sql("SELECT nonsense FROM nowhere")
    request_finished()
    assert asked == []
    in_thread(token)
    assert asked == [1]
    in_thread(token)
    assert asked == [1]
    assert pooling.stats("default").opened - opened == 1


def test_a_physical_connection_that_its_user_closed_is_not_used_again() -> None:
    for _ in range(3):
        request_started()
        one()
        connection.connection.close()
        request_finished()
        token()
        request_finished()
    assert pooling.stats("default").idle <= 1
    assert_whole()


def test_a_wrapper_whose_connection_was_set_to_none_by_hand_loses_no_slot() -> None:
    for _ in range(6):
        request_started()
        one()
        connection.connection = None
        assert one() == 1
        assert pooling.stats("default").in_use == 1
        connection.connection = None
        request_finished()
        assert pooling.stats("default").in_use == 0
    assert_whole()


def test_a_copy_is_pooled_and_given_back(observer: Observer) -> None:
    opened = pooling.stats("default").opened
    copy = connection.copy()
    with copy.cursor() as cursor:
        cursor.execute("SELECT 1")
    assert pooling.stats("default").in_use == 1
    copy.close()
    assert (pooling.stats("default").in_use, pooling.stats("default").idle) == (0, 1)
    one()
    assert pooling.stats("default").opened - opened == 1
    assert observer.count() == 1


def test_a_copy_beside_its_original_has_a_connection_of_its_own_and_both_go_back() -> None:
    request_started()
    number = server_id()
    copy = connection.copy(alias="default")
    with copy.cursor() as cursor:
        cursor.execute("SELECT 1")
    assert copy.connection is not connection.connection
    assert pooling.stats("default").in_use == 2
    assert server_id() == number
    request_finished()
    assert pooling.stats("default").in_use == 0
    assert_whole()


def test_two_aliases_have_pools_of_their_own_and_both_go_back() -> None:
    with another_alias() as other:
        request_started()
        one()
        one(other)
        assert pooling.stats("default").in_use == pooling.stats(other).in_use == 1
        assert set(pooling.stats()) == {"default", other}
        request_finished()
        assert pooling.stats("default").in_use == pooling.stats(other).in_use == 0
        assert pooling.stats("default").idle == pooling.stats(other).idle == 1
        assert_whole()
        assert_whole(other)


def test_closing_twice_gives_back_once() -> None:
    one()
    connection.close()
    connection.close()
    connections.close_all()
    request_finished()
    assert pooling.stats("default").idle == 1
    assert_whole()


def test_a_wrapper_of_another_thread_is_refused_as_in_django() -> None:
    one()
    mine = connections["default"]

    def stranger() -> None:
        with pytest.raises(DatabaseError, match="thread"):
            mine.cursor()
        with pytest.raises(DatabaseError, match="thread"):
            mine.close()

    in_thread(stranger)
    assert pooling.stats("default").in_use == 1


def test_a_wrapper_shared_with_another_thread_is_left_alone_by_its_end_and_its_requests() -> None:
    """LiveServerTestCase: the server's thread works with the test's own connection."""
    one()
    mine = connections["default"]
    mine.inc_thread_sharing()
    try:

        def server() -> None:
            connections["default"] = mine
            request_started()
            token()
            request_finished()
            assert pooling.stats("default").in_use == 1

        in_thread(server)
        assert pooling.stats("default").in_use == 1
        token()
    finally:
        mine.dec_thread_sharing()
    request_finished()
    assert pooling.stats("default").in_use == 0
    assert_whole()


def test_captured_queries_are_those_of_this_thread() -> None:
    one()
    with CaptureQueriesContext(connection) as captured:
        token()
        in_thread(token)
        token()
    assert len(captured) == 2


def test_the_query_log_and_wrappers_of_execute_do_not_travel_with_the_connection() -> None:
    seen: list[str] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql)
        return execute(sql, params, many, context)

    request_started()
    one()
    with connection.execute_wrapper(note):
        one()
        request_finished()
        in_thread(token)
    assert len(seen) == 1


def test_after_a_close_behind_djangos_back_the_wrapper_has_no_connection() -> None:
    """Third parties call _close() themselves: what was given back may be somebody else's by then."""
    one()
    connection._close()
    assert connection.connection is None
    assert not connection.is_usable()
    assert one() == 1
