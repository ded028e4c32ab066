"""Transaction scope: a connection is held only while a transaction, a cursor or a pin needs it."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from django.db import (
    DatabaseError,
    Error,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    connection,
    connections,
    transaction,
)
from django.db.backends.signals import connection_created
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext

from django_db_pooling import pooling
from django_db_pooling.backend import transactions
from django_db_pooling.signals import connection_checked_out
from tests.behaviour.conftest import (
    BEGIN,
    DRIVER,
    MYSQL,
    POSTGRESQL,
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
from tests.behaviour.observer import Observer
from tests.behaviour.test_session import receiving
from tests.behaviour.test_transactions import without_close_old_connections

pytestmark = pytest.mark.transaction_scope


def add(text: str, using: str = "default") -> None:
    Note.objects.using(using).create(text=text)


def in_use(using: str = "default") -> int:
    return pooling.stats(using).in_use


@contextmanager
def request_in(scope: str) -> Iterator[str]:
    """In a request, an alias with this setting; whoever calls this calls request_finished()."""
    with another_alias(POOL={"SCOPE": scope, "SIZE": 2, "MAX_OUTSTANDING": 4}) as alias:
        request_started()
        yield alias


# -- which scope applies -----------------------------------------------------------------------------


def test_outside_of_requests_a_statement_holds_nothing_afterwards() -> None:
    one()
    assert in_use() == 0
    assert [note.text for note in Note.objects.all()] == []
    assert in_use() == 0
    assert pooling.stats("default").opened >= 1


def test_the_setting_decides_for_requests() -> None:
    with request_in("transaction") as alias:
        one(alias)
        assert in_use(alias) == 0
        request_finished()
    with request_in("request") as alias:
        one(alias)
        assert in_use(alias) == 1
        request_finished()
        assert in_use(alias) == 0


def test_in_requests_the_default_is_request_scope() -> None:
    request_started()
    one()
    assert in_use() == 1
    request_finished()
    assert in_use() == 0


def test_scope_decides_by_name_and_the_innermost_wins() -> None:
    with pooling.scope("request"):
        one()
        assert in_use() == 1
        with pooling.scope("transaction"):
            one()
            assert in_use() == 1  # What was checked out before stays.
    assert in_use() == 0
    request_started()
    with pooling.scope("transaction"):
        one()
        assert in_use() == 0
        with pooling.scope("request"):
            one()
            assert in_use() == 1
        assert in_use() == 0
    one()
    assert in_use() == 1
    request_finished()


def test_scope_as_a_decorator() -> None:
    @pooling.scope("request")
    def job() -> int:
        one()
        return in_use()

    assert (job(), in_use()) == (1, 0)
    assert (job(), in_use()) == (1, 0)


def test_scope_refuses_other_names() -> None:
    with pytest.raises(ValueError, match="'request', 'transaction' or None, not 'session'"):
        pooling.scope("session")


def test_threads_that_never_end_hold_nothing() -> None:
    """More of them than there are connections, as in an executor."""
    done, letting_go = threading.Barrier(7), threading.Event()

    def work() -> None:
        token()
        done.wait(10)
        letting_go.wait(10)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    done.wait(10)
    assert in_use() == 0
    letting_go.set()
    for thread in threads:
        thread.join(10)
    assert_whole()


# -- atomic ------------------------------------------------------------------------------------------


def test_atomic_begins_with_its_first_statement() -> None:
    with transaction.atomic():
        assert connection.in_atomic_block
        assert not connection.get_autocommit()
        assert in_use() == 0
        add("a")
        assert in_use() == 1
        assert committed() == []
    assert in_use() == 0
    assert committed() == ["a"]
    assert connection.get_autocommit()


def test_atomic_without_a_statement_takes_nothing() -> None:
    checkouts = pooling.stats("default").checkouts
    called: list[int] = []
    with transaction.atomic(), transaction.atomic(savepoint=False):
        transaction.on_commit(lambda: called.append(in_use()))
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        raise ZeroDivisionError
    assert called == [0]
    assert pooling.stats("default").checkouts == checkouts
    assert connection.get_autocommit()
    assert not connection.in_atomic_block


def test_all_statements_of_a_block_run_on_one_connection() -> None:
    with transaction.atomic():
        first = server_id()
        with in_other_hands(1):
            assert server_id() == first
            with transaction.atomic():
                assert server_id() == first


@contextmanager
def in_other_hands(count: int) -> Iterator[None]:
    """So many connections are used by others meanwhile."""
    holding, letting_go = threading.Semaphore(0), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            one()
            holding.release()
            letting_go.wait(10)

    threads = [threading.Thread(target=hold) for _ in range(count)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert holding.acquire(timeout=10)
    try:
        yield
    finally:
        letting_go.set()
        for thread in threads:
            thread.join(10)


def test_an_exception_rolls_back() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        add("a")
        raise ZeroDivisionError
    assert in_use() == 0
    assert committed() == []
    add("b")
    assert committed() == ["b"]


def test_savepoints() -> None:
    with transaction.atomic():
        add("outer")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            add("inner")
            raise ZeroDivisionError
        with transaction.atomic():
            add("second")
        assert in_use() == 1
    assert in_use() == 0
    assert committed() == ["outer", "second"]


def test_a_savepoint_before_the_first_statement() -> None:
    with transaction.atomic():
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            add("inner")
            raise ZeroDivisionError
        add("outer")
    assert committed() == ["outer"]
    assert in_use() == 0


def test_an_integrity_error_inside_of_an_inner_block() -> None:
    with transaction.atomic():
        note = Note.objects.create(text="a")
        with pytest.raises(IntegrityError), transaction.atomic():
            Note.objects.create(id=note.id, text="b")
        add("c")
    assert committed() == ["a", "c"]
    assert in_use() == 0


def test_a_broken_block_stays_broken_as_in_django() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        with pytest.raises(ZeroDivisionError), transaction.atomic(savepoint=False):
            raise ZeroDivisionError
        with pytest.raises(TransactionManagementError):
            one()
        raise ZeroDivisionError
    assert in_use() == 0


def test_set_rollback_before_and_after_the_first_statement() -> None:
    with transaction.atomic():
        transaction.set_rollback(True)
    with transaction.atomic():
        add("a")
        transaction.set_rollback(True)
    assert committed() == []
    assert in_use() == 0


def test_durable_blocks() -> None:
    with transaction.atomic():
        with pytest.raises(RuntimeError), transaction.atomic(durable=True):
            pass
        assert in_use() == 0
    with transaction.atomic(durable=True):
        add("a")
    assert committed() == ["a"]


def test_close_in_a_block_before_its_first_statement_breaks_it_as_in_django() -> None:
    with transaction.atomic():
        connection.close()
        with pytest.raises((ProgrammingError, TransactionManagementError)):
            one()
    one()
    assert connection.get_autocommit()
    assert in_use() == 0


def test_nested_aliases_have_connections_of_their_own() -> None:
    with another_alias() as alias:
        with transaction.atomic(), transaction.atomic(using=alias):
            one(alias)
            assert (in_use(), in_use(alias)) == (0, 1)
            one()
            assert (in_use(), in_use(alias)) == (1, 1)
        assert (in_use(), in_use(alias)) == (0, 0)


def test_when_no_connection_can_be_had_the_block_can_try_again() -> None:
    pooling.set_pool_size(1, max_outstanding=1, timeout=0)
    with transaction.atomic():
        with in_other_hands(1), pytest.raises(OperationalError):
            one()
        add("a")
    assert committed() == ["a"]
    assert in_use() == 0


@pytest.mark.never("sqlite3")
def test_a_connection_that_dies_in_a_block_fails_the_block_and_is_not_begun_again(observer: Observer) -> None:
    with pytest.raises(Error), transaction.atomic():  # noqa: PT012
        add("a")
        observer.kill()
        with pytest.raises(Error):
            add("b")
        add("c")
    assert committed() == []
    assert_whole()


@pytest.mark.only("sqlite3")
@pytest.mark.parametrize("mode", ["IMMEDIATE", "EXCLUSIVE"])
def test_where_begin_takes_a_lock_it_is_not_put_off(mode: str) -> None:
    with another_alias(OPTIONS={"transaction_mode": mode}) as alias:
        with transaction.atomic(using=alias):
            assert in_use(alias) == 1
            assert connections[alias].connection.in_transaction
        assert in_use(alias) == 0


def test_atomic_by_hand_in_the_middle_of_other_peoples_work() -> None:
    """Each reads what it has written, in its own transaction, with fewer connections than callers."""

    def work(number: int) -> None:
        for turn in range(5):
            with transaction.atomic():
                token()
                text = f"{number} {turn}"
                if DRIVER != "sqlite3":
                    add(text)
                    assert Note.objects.filter(text=text).count() == 1
            token()

    in_threads([lambda number=number: work(number) for number in range(12)])  # type: ignore[misc]
    assert in_use() == 0
    if DRIVER != "sqlite3":
        assert len(committed()) == 60
    assert_whole()


# -- hooks -------------------------------------------------------------------------------------------


def test_hooks_run_after_the_release_and_may_query() -> None:
    seen: list[Any] = []

    def hook() -> None:
        seen.append(in_use())
        seen.append(list(Note.objects.values_list("text", flat=True)))
        seen.append(in_use())

    with transaction.atomic():
        add("a")
        transaction.on_commit(hook)
        assert seen == []
    assert seen == [0, ["a"], 0]


def test_hooks_registered_before_the_first_statement_survive_it() -> None:
    called: list[str] = []
    with transaction.atomic():
        transaction.on_commit(lambda: called.append("before"))
        with transaction.atomic():
            transaction.on_commit(lambda: called.append("inner"))
            add("a")
        transaction.on_commit(lambda: called.append("after"))
    assert called == ["before", "inner", "after"]


def test_hooks_of_a_block_that_is_rolled_back_are_dropped() -> None:
    called: list[str] = []
    for statement in (lambda: None, lambda: add("a")):
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            transaction.on_commit(lambda: called.append("no"))
            statement()
            raise ZeroDivisionError
    with transaction.atomic():
        add("b")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            transaction.on_commit(lambda: called.append("no"))
            raise ZeroDivisionError
    assert called == []
    transaction.on_commit(lambda: called.append("at once"))
    assert called == ["at once"]
    assert in_use() == 0


def test_a_hook_that_fails_fails_as_in_django_and_nothing_is_held() -> None:
    def hook() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        add("a")
        transaction.on_commit(hook)
    assert committed() == ["a"]
    assert in_use() == 0
    assert connection.get_autocommit()


# -- transactions without atomic -----------------------------------------------------------------------


def test_transactions_by_hand() -> None:
    transaction.set_autocommit(False)
    assert in_use() == 1
    add("a")
    transaction.rollback()
    add("b")
    transaction.commit()
    assert in_use() == 1
    transaction.set_autocommit(True)
    assert in_use() == 0
    assert committed() == ["b"]


def test_a_transaction_by_hand_that_is_left_open_is_rolled_back_at_the_end_of_the_request() -> None:
    with request_in("transaction") as alias:
        transaction.set_autocommit(False, using=alias)
        add("a", alias)
        assert in_use(alias) == 1
        request_finished()
        assert in_use(alias) == 0
    assert committed() == []


def test_begin_in_sql_holds_the_connection() -> None:
    first = server_id()
    with in_other_hands(0):
        sql(BEGIN)
        assert in_use() == 1
        sql("INSERT INTO behaviour_note (text) VALUES ('a')")
        assert committed() == []
        assert in_use() == 1
        sql("COMMIT")
    assert committed() == ["a"]
    assert first is not None
    one()
    if DRIVER != "mysqlclient":
        # Which can't tell that the transaction is over.
        assert in_use() == 0
    pooling.release() if DRIVER != "mysqlclient" else connection.close()
    assert in_use() == 0


@pytest.mark.only("pymysql", "mysqlclient")
def test_xa_in_sql_holds_the_connection() -> None:
    with request_in("transaction") as alias:
        for statement in ("XA START 'x'", "INSERT INTO behaviour_note (text) VALUES ('a')"):
            sql(statement, using=alias)
            assert in_use(alias) == 1
        for statement in ("XA END 'x'", "XA PREPARE 'x'", "XA COMMIT 'x'"):
            sql(statement, using=alias)
        request_finished()
        assert in_use(alias) == 0
    assert committed() == ["a"]


def test_begin_in_sql_that_is_left_open_is_rolled_back_at_the_end_of_the_request() -> None:
    with request_in("transaction") as alias:
        sql(BEGIN, using=alias)
        sql("INSERT INTO behaviour_note (text) VALUES ('a')", using=alias)
        request_finished()
        assert in_use(alias) == 0
    assert committed() == []


# -- cursors -----------------------------------------------------------------------------------------


def test_a_cursor_holds_its_connection_until_it_is_closed() -> None:
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    assert cursor.fetchall()
    assert in_use() == 1
    cursor.execute("SELECT 2")
    assert list(cursor.fetchall()) == [(2,)]
    cursor.close()
    assert in_use() == 0
    cursor.close()


def test_while_a_cursor_is_open_all_statements_share_its_connection() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        physical = connection.connection
        with connection.cursor() as second:
            second.execute("SELECT 2")
            assert connection.connection is physical
        assert in_use() == 1
        add("a")
        assert connection.connection is physical
    assert in_use() == 0


def test_a_cursor_that_is_dropped_gives_back_when_it_is_collected() -> None:
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    cursor.fetchall()
    del cursor
    gc.collect()
    assert in_use() == 0


def test_a_cursor_collected_in_another_thread_gives_back_at_the_next_call() -> None:
    """Its own thread may be in the middle of anything."""
    cursors = [connection.cursor()]
    cursors[0].execute("SELECT 1")
    cursors[0].fetchall()

    def collect() -> None:
        cursors.clear()
        gc.collect()

    in_thread(collect)
    assert in_use() == 1
    one()
    assert in_use() == 0


def test_an_iterator_holds_while_it_is_read_and_gives_back_at_its_end() -> None:
    for text in "abc":
        add(text)
    seen = []
    for note in Note.objects.order_by("id").iterator(chunk_size=1):
        seen.append(note.text)
    assert seen == ["a", "b", "c"]
    gc.collect()
    assert in_use() == 0


def test_an_abandoned_iterator_is_cleaned_up_after() -> None:
    for text in "abcdef":
        add(text)
    with request_in("transaction") as alias:
        iterator = Note.objects.using(alias).order_by("id").iterator(chunk_size=1)
        assert next(iterator).text == "a"
        del iterator
        gc.collect()
        assert Note.objects.using(alias).count() == 6
        request_finished()
        assert in_use(alias) == 0
        if POSTGRESQL:
            left = sql("SELECT count(*) FROM pg_cursors WHERE is_holdable", using=alias)
            assert left == [(0,)]


def test_raw_querysets_and_values() -> None:
    add("a")
    assert [note.text for note in Note.objects.raw("SELECT * FROM behaviour_note")] == ["a"]
    gc.collect()
    assert in_use() == 0
    assert Note.objects.filter(text="a").exists()
    assert Note.objects.update(text="b") == 1
    assert Note.objects.bulk_create([Note(text="c")])
    assert Note.objects.all().delete()[0] == 2
    assert in_use() == 0


def test_a_statement_that_fails_holds_nothing() -> None:
    with pytest.raises(DatabaseError):
        sql("SELECT nonsense FROM nowhere")
    assert in_use() == 0
    one()
    assert in_use() == 0


# -- pins and sessions ---------------------------------------------------------------------------------


def test_ensure_connection_by_the_users_code_pins() -> None:
    with request_in("transaction") as alias:
        connections[alias].ensure_connection()
        physical = connections[alias].connection
        one(alias)
        assert connections[alias].connection is physical
        assert in_use(alias) == 1
        assert pooling.stats(alias).pins == 1
        request_finished()
        assert in_use(alias) == 0


def test_pin_keeps_to_the_end_of_the_scope() -> None:
    with pooling.scope():
        pooling.pin()
        one()
        assert in_use() == 1
    assert in_use() == 0
    assert_whole()


@pytest.mark.never("sqlite3")
def test_a_changed_session_is_kept_to_the_end_of_the_request_and_nobody_else_sees_it() -> None:
    change = "SET @mine = 1" if MYSQL else "SET application_name TO 'mine'"
    look = "SELECT @mine" if MYSQL else "SHOW application_name"
    with request_in("transaction") as alias:
        sql(change, using=alias)
        assert in_use(alias) == 1
        assert sql(look, using=alias) == [(1 if MYSQL else "mine",)]
        assert in_use(alias) == 1
        request_finished()
        assert in_use(alias) == 0
        assert sql(look, using=alias) == [(None if MYSQL else "",)]


ASKS = (
    [
        "SELECT LAST_INSERT_ID()",
        "SELECT FOUND_ROWS()",
        "SELECT ROW_COUNT()",
        "SHOW WARNINGS",
        "SELECT @@identity",
    ]
    if MYSQL
    else ["SELECT lastval()", "SELECT currval('behaviour_note_id_seq')"]
    if POSTGRESQL
    else ["SELECT last_insert_rowid()", "SELECT changes()"]
)


@pytest.mark.parametrize("asks", ASKS)
def test_what_the_last_statement_left_can_only_be_asked_where_it_was_left(asks: str) -> None:
    add("a")
    with pytest.raises(TransactionManagementError, match=r"atomic\(\)"):
        sql(asks)
    assert in_use() == 0
    with transaction.atomic():
        add("b")
        sql(asks)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO behaviour_note (text) VALUES ('c')")
        cursor.execute(asks)
        cursor.fetchall()
    with pooling.scope("request"):
        add("d")
        sql(asks)
    assert in_use() == 0


def test_is_usable_asks_although_nothing_is_held() -> None:
    assert connection.is_usable()
    assert in_use() == 0
    pooling.set_pool_size(1, max_outstanding=1, timeout=0)
    with in_other_hands(1):
        assert not connection.is_usable()
    assert connection.is_usable()


def test_what_others_execute_around_us_is_counted_by_django_as_ever() -> None:
    with CaptureQueriesContext(connection) as captured:
        one()
        with transaction.atomic():
            one()
    assert len([query for query in captured if "SELECT" in query["sql"]]) == 2
    pooling.release()


def test_release_is_refused_in_a_transaction_and_harmless_without() -> None:
    pooling.release()
    with transaction.atomic():
        one()
        with pytest.raises(TransactionManagementError):
            pooling.release()
    pooling.release()
    assert in_use() == 0


def test_a_test_clients_request_inside_of_an_atomic_block_leaves_that_alone() -> None:
    with without_close_old_connections(), transaction.atomic():
        add("a")
        request_started()
        add("b")
        request_finished()
        assert in_use() == 1
        assert committed() == []
        add("c")
    assert committed() == ["a", "b", "c"]


def test_a_request_inside_of_a_block_that_has_not_begun() -> None:
    with transaction.atomic():
        request_started()
        request_finished()
        assert connection.in_atomic_block
        add("a")
        assert committed() == []
    assert committed() == ["a"]


def test_the_end_of_a_thread_in_the_middle_of_a_block_rolls_back() -> None:
    def work() -> None:
        transaction.atomic().__enter__()
        add("a")

    in_thread(work)
    gc.collect()
    eventually(lambda: in_use() == 0)
    assert committed() == []
    assert_whole()


def test_interrupted_anywhere_nothing_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interruption(BaseException):
        pass

    def raises(*args: Any, **kwargs: Any) -> None:
        raise Interruption

    places: list[Callable[[], Any]] = [
        lambda: monkeypatch.setattr(connection, "_set_autocommit", raises),
        lambda: monkeypatch.setattr(connection, "create_cursor", raises),
    ]
    for place in places:
        place()
        with pytest.raises(Interruption), transaction.atomic():
            add("a")
        monkeypatch.undo()
        connection.close()
        eventually(lambda: in_use() == 0)
        assert committed() == []
        one()
    assert_whole()


@pytest.mark.never("sqlite3")
def test_busy_seconds_are_those_inside_of_the_driver() -> None:
    sleep = "SELECT SLEEP(0.2)" if MYSQL else "SELECT pg_sleep(0.2)"
    before = pooling.stats("default")
    with pooling.scope("request"):
        sql(sleep)
        time.sleep(0.2)
    after = pooling.stats("default")
    busy, held = after.busy_seconds - before.busy_seconds, after.held_seconds - before.held_seconds
    assert 0.2 <= busy <= held - 0.2 + 0.001
    before = after
    sql(sleep)
    time.sleep(0.2)
    after = pooling.stats("default")
    busy, held = after.busy_seconds - before.busy_seconds, after.held_seconds - before.held_seconds
    assert 0.2 <= busy <= held


def test_waiting_for_a_connection_is_not_busy() -> None:
    pooling.set_pool_size(1, max_outstanding=1, timeout=0.3)
    one()
    before = pooling.stats("default").busy_seconds
    with in_other_hands(1), pytest.raises(OperationalError):
        one()
    assert pooling.stats("default").busy_seconds - before < 0.2


# -- blocks that have not begun, and what can happen around them -----------------------------------------


def test_after_a_block_that_was_closed_the_next_one_begins_anew() -> None:
    called: list[str] = []
    with suppress(Error), transaction.atomic():
        transaction.on_commit(lambda: called.append("lost"))
        add("a")
        connection.close()
    with transaction.atomic():
        add("b")
    assert (committed(), called) == (["b"], [])


@pytest.mark.never("sqlite3")
def test_after_a_block_whose_connection_died_the_next_one_begins_anew(observer: Observer) -> None:
    called: list[str] = []
    for _ in range(2):
        with suppress(Error), transaction.atomic():
            transaction.on_commit(lambda: called.append("lost"))
            add("a")
            observer.kill()
            add("b")
    with transaction.atomic():
        add("c")
    assert (committed(), called) == (["c"], [])
    assert_whole()


@pytest.mark.parametrize("name", [None, "request", "transaction"])
def test_a_scope_inside_of_a_block_that_has_not_begun_leaves_the_block_alone(name: str | None) -> None:
    for fails in (True, False):
        with suppress(ZeroDivisionError), transaction.atomic():
            with pooling.scope(name):
                add("a")
            add("b")
            assert committed() == []
            if fails:
                raise ZeroDivisionError
    assert committed() == ["a", "b"]
    assert in_use() == 0


def test_a_request_inside_of_a_block_that_has_not_begun_may_begin_it() -> None:
    for fails in (True, False):
        with without_close_old_connections(), suppress(ZeroDivisionError), transaction.atomic():
            request_started()
            add("a")
            request_finished()
            add("b")
            assert committed() == []
            if fails:
                raise ZeroDivisionError
    assert committed() == ["a", "b"]


def test_a_block_that_a_request_never_leaves_ends_with_the_request() -> None:
    with request_in("transaction") as alias:
        block = transaction.atomic(using=alias)
        block.__enter__()
        request_finished()
        assert not connections[alias].in_atomic_block
        request_started()
        add("next request", alias)
        request_finished()
    assert committed() == ["next request"]


def test_a_temporary_connection_in_a_block_is_the_blocks() -> None:
    with transaction.atomic():
        with connection.temporary_connection() as cursor:
            cursor.execute("SELECT 1")
        add("a")
    assert committed() == ["a"]
    with connection.temporary_connection() as cursor:
        cursor.execute("SELECT 1")
    assert in_use() == 0


def test_a_receiver_with_a_block_of_its_own_runs_no_hooks_of_ours() -> None:
    called: list[str] = []

    def receiver(connection: Any, **kwargs: Any) -> None:
        with transaction.atomic(using=connection.alias):
            sql("SELECT 1", using=connection.alias)

    with receiving(connection_created, receiver), receiving(connection_checked_out, receiver):
        with suppress(ZeroDivisionError), transaction.atomic():
            transaction.on_commit(lambda: called.append("no"))
            add("a")
            raise ZeroDivisionError
        assert called == []
        with transaction.atomic():
            transaction.on_commit(lambda: called.append("yes"))
            add("b")
    assert (committed(), called) == (["b"], ["yes"])


def test_release_in_a_block_that_has_not_begun_has_nothing_to_release() -> None:
    with transaction.atomic():
        pooling.release()
        add("a")
    assert committed() == ["a"]


@pytest.mark.only("pymysql", "psycopg")
def test_reset_always_is_for_transaction_scope_too() -> None:
    with another_alias(POOL={"RESET": "always"}) as alias:
        for number in (1, 2):
            one(alias)
            assert in_use(alias) == 0
            assert pooling.stats(alias).resets == number


def test_a_receiver_of_connection_checked_out_does_not_answer_for_the_last_statement() -> None:
    def receiver(**kwargs: Any) -> None:
        sql("SELECT 1")

    with receiving(connection_checked_out, receiver), pytest.raises(TransactionManagementError):
        sql(ASKS[0])


def test_what_is_given_back_and_taken_again_in_a_scope_goes_back_at_its_end() -> None:
    cursor = connection.cursor()
    with pooling.scope("request"):
        cursor.close()
        one()
        assert in_use() == 1
    assert in_use() == 0
    cursor = connection.cursor()
    with without_close_old_connections():
        request_started()
        cursor.close()
        one()
        assert in_use() == 1
        request_finished()
    assert in_use() == 0


def test_garbage_collected_while_a_cursor_is_made_does_not_take_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = transactions.OpenCursor

    class Collecting(made):
        def __new__(cls, *arguments: Any) -> Any:
            gc.collect()
            return made(*arguments)

    cycle: list[Any] = [connection.cursor()]
    cycle.append(cycle)
    del cycle
    monkeypatch.setattr(transactions, "OpenCursor", Collecting)
    cursor = connection.cursor()
    monkeypatch.undo()
    cursor.execute("SELECT 1")
    assert cursor.fetchall()
    cursor.close()
    assert in_use() == 0
