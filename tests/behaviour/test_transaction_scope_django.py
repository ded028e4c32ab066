"""Transaction scope with the rest of Django: health checks, autocommit off, logs, two aliases, the ORM."""

from __future__ import annotations

import ctypes
import gc
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from django.db import (
    Error,
    IntegrityError,
    connection,
    connections,
    reset_queries,
    transaction,
)
from django.db.models.expressions import RawSQL
from django.db.transaction import TransactionManagementError
from django.test import TransactionTestCase, override_settings
from django.test.utils import CaptureQueriesContext

from django_db_pooling import drivers, pooling
from tests.behaviour.brief import (
    TooLate,
    add,
    add_many,
    assert_exact,
    brief,
    checkouts,
    in_use,
    nothing_told,  # noqa: F401
    request,
    servers,
    texts,
    told,
    unpooled,
)
from tests.behaviour.conftest import (
    DRIVER,
    MYSQL,
    PATIENCE,
    POSTGRESQL,
    another_alias,
    assert_whole,
    committed,
    eventually,
    held,
    in_threads,
    one,
    server_id,
    sql,
    token,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import Observer

pytestmark = [pytest.mark.transaction_scope, pytest.mark.usefixtures("nothing_told")]

# -- CONN_HEALTH_CHECKS ------------------------------------------------------------------------------


def read_rows(alias: str) -> None:
    assert texts(alias) == []


def read_in_a_block(alias: str) -> None:
    with transaction.atomic(using=alias):
        assert texts(alias) == []
        with transaction.atomic(using=alias):
            token(alias)


def read_an_iterator(alias: str) -> None:
    assert list(Note.objects.using(alias).iterator(chunk_size=1)) == []


def read_by_hand(alias: str) -> None:
    transaction.set_autocommit(False, using=alias)
    for _ in range(2):
        token(alias)
        transaction.rollback(using=alias)
    transaction.set_autocommit(True, using=alias)


def read_with_a_cursor(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        for _ in range(3):
            cursor.execute("SELECT 1")
            assert cursor.fetchall()


ways_to_read = pytest.mark.parametrize(
    "read", [read_rows, read_in_a_block, read_an_iterator, read_by_hand, read_with_a_cursor]
)


@servers
@ways_to_read
@pytest.mark.parametrize("in_a_request", [True, False])
def test_with_health_checks_a_connection_killed_while_idle_is_replaced_without_an_error(
    read: Callable[[str], None], in_a_request: bool, observer: Observer
) -> None:
    with brief(CONN_HEALTH_CHECKS=True) as alias:
        for _ in range(2):
            one(alias)
            observer.kill()
            eventually(lambda: observer.count() == 0)
            if in_a_request:
                with request():
                    read(alias)
            else:
                read(alias)
            assert in_use(alias) == 0
        assert pooling.stats(alias).opened == 3


@servers
def test_with_health_checks_a_block_survives_a_kill_before_its_first_statement(observer: Observer) -> None:
    with brief(CONN_HEALTH_CHECKS=True) as alias:
        one(alias)
        with transaction.atomic(using=alias):
            transaction.on_commit(lambda: told.append("hook"), using=alias)
            observer.kill()
            eventually(lambda: observer.count() == 0)
            add("a", alias)
        assert in_use(alias) == 0
    assert (committed(), told) == (["a"], ["hook"])


@ways_to_read
@pytest.mark.parametrize("in_a_request", [True, False])
def test_with_health_checks_the_server_is_asked_once_per_checkout(
    read: Callable[[str], None], in_a_request: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver: Any = drivers.find(connection.Database)
    usable = driver.usable

    def counted(*arguments: Any) -> bool:
        told.append("asked")
        return bool(usable(*arguments))

    with brief(CONN_HEALTH_CHECKS=True) as alias:
        one(alias)
        monkeypatch.setattr(driver, "usable", counted)
        for turn in range(1, 4):
            before = checkouts(alias)
            if in_a_request:
                with request():
                    read(alias)
            else:
                read(alias)
            assert checkouts(alias) - before == 1
            assert len(told) == turn


@pytest.mark.only("pymysql", "mysqlclient")
def test_with_health_checks_the_server_counts_one_ping_per_checkout() -> None:
    def pings(alias: str) -> int:
        return int(sql("SHOW SESSION STATUS LIKE 'Com_admin_commands'", using=alias)[0][1])

    with brief(CONN_HEALTH_CHECKS=True) as alias:
        before = pings(alias)
        assert pings(alias) == before + 1
        read_in_a_block(alias)
        assert pings(alias) == before + 3
        read_by_hand(alias)
        assert pings(alias) == before + 5
        assert pooling.stats(alias).opened == 1


# -- AUTOCOMMIT False --------------------------------------------------------------------------------


def answer(function: Callable[[], Any]) -> Any:
    """What it returns or raises."""
    try:
        return function()
    except Exception as error:
        return type(error).__name__


def by_hand(alias: str) -> Iterator[Any]:
    """What happens in plain Django where AUTOCOMMIT is False, step by step."""

    def block(text: str, fails: bool = False, inner: bool = False) -> None:
        with transaction.atomic(using=alias):
            add(text, alias)
            if inner:
                with suppress(ZeroDivisionError):
                    block("failed", fails=True)
            if fails:
                raise ZeroDivisionError

    commit = partial(transaction.commit, using=alias)
    roll_back = partial(transaction.rollback, using=alias)
    yield transaction.get_autocommit(using=alias)
    for step in (
        partial(one, alias),
        partial(add, "a", alias),
        commit,
        partial(add, "rolled back", alias),
        roll_back,
        partial(texts, alias),
        partial(block, "b"),
        commit,
        partial(block, "failed", fails=True),
        commit,
        partial(block, "with an inner block", inner=True),
        commit,
        partial(block, "rolled back unless on SQLite"),
        roll_back,
        partial(add, "before a block", alias),
        partial(block, "block"),
        partial(texts, alias),
        commit,
        partial(sql, "SELECT nonsense FROM nowhere", using=alias),
        roll_back,
        partial(transaction.on_commit, lambda: told.append("hook"), using=alias),
        partial(transaction.set_autocommit, True, using=alias),
        partial(add, "autocommit", alias),
        partial(block, "d"),
        partial(transaction.set_autocommit, False, using=alias),
        partial(add, "left open", alias),
    ):
        yield answer(step)
        yield committed()


@pytest.mark.parametrize("in_a_request", [True, False])
def test_where_autocommit_is_off_everything_is_as_in_django(in_a_request: bool) -> None:
    with unpooled(AUTOCOMMIT=False) as alias:
        expected = list(by_hand(alias))
        connections[alias].close()
    djangos, left = list(told), committed()
    Note.objects.all().delete()
    told.clear()
    with brief(AUTOCOMMIT=False) as alias:
        if in_a_request:
            with request():
                assert list(by_hand(alias)) == expected
        else:
            assert list(by_hand(alias)) == expected
            connections[alias].close()
        assert in_use(alias) == 0
    assert (told, committed()) == (djangos, left)


def test_where_autocommit_is_off_a_transaction_keeps_its_connection_to_its_end() -> None:
    with brief(AUTOCOMMIT=False) as alias, request():
        add("a", alias)
        assert in_use(alias) == 1
        physical = connections[alias].connection
        with held(2, alias):
            add("b", alias)
            assert connections[alias].connection is physical
        assert committed() == []
        transaction.commit(using=alias)
        assert committed() == ["a", "b"]


def test_where_autocommit_is_off_what_is_left_open_is_rolled_back_at_the_end_of_the_request(
    observer: Observer,
) -> None:
    with brief(AUTOCOMMIT=False) as alias:
        with request():
            add("never", alias)
        assert_exact(alias, observer)
        assert committed() == []
        with request():
            add("a", alias)
            transaction.commit(using=alias)
            add("never", alias)
        with request():
            assert texts(alias) == ["a"]
        assert_exact(alias, observer)
        assert committed() == ["a"]


def test_where_autocommit_is_off_a_block_rolls_back_to_its_beginning() -> None:
    with brief(AUTOCOMMIT=False) as alias, request():
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
            add("never", alias)
            raise ZeroDivisionError
        with transaction.atomic(using=alias):
            add("a", alias)
            with suppress(ZeroDivisionError), transaction.atomic(using=alias):
                add("never", alias)
                raise ZeroDivisionError
        transaction.commit(using=alias)
        assert committed() == ["a"]


# -- what is logged ----------------------------------------------------------------------------------


def normal(statement: str) -> str:
    """Without the numbers in the names of savepoints and of cursors."""
    return re.sub(r"\b(s|_django_curs_)\d+_(x|sync_)\d+", r"\1\2", statement)


def statements_of_all_kinds(alias: str) -> None:
    one(alias)
    add("a", alias)
    with transaction.atomic(using=alias):
        add("b", alias)
        with transaction.atomic(using=alias):
            add("c", alias)
        with suppress(ZeroDivisionError), transaction.atomic(using=alias):
            add("never", alias)
            raise ZeroDivisionError
        with transaction.atomic(using=alias, savepoint=False):
            add("d", alias)
        transaction.on_commit(lambda: add("hook", alias), using=alias)
    with suppress(ZeroDivisionError), transaction.atomic(using=alias):
        one(alias)
        raise ZeroDivisionError
    with suppress(Error):
        sql("SELECT nonsense FROM nowhere", using=alias)
    assert list(Note.objects.using(alias).order_by("id").values_list("text").iterator(chunk_size=2))
    add_many("ef", alias)
    Note.objects.using(alias).bulk_create([Note(text="g"), Note(text="h")], batch_size=1)
    transaction.set_autocommit(False, using=alias)
    add("i", alias)
    transaction.commit(using=alias)
    add("never", alias)
    transaction.rollback(using=alias)
    transaction.set_autocommit(True, using=alias)
    Note.objects.using(alias).filter(text="i").update(text="j")
    Note.objects.using(alias).all().delete()


def captured(alias: str) -> list[str]:
    with CaptureQueriesContext(connections[alias]) as queries:
        statements_of_all_kinds(alias)
    return [normal(query["sql"]) for query in queries]


def logged_in_debug_mode(alias: str) -> list[str]:
    with override_settings(DEBUG=True):
        reset_queries()
        statements_of_all_kinds(alias)
        return [normal(query["sql"]) for query in connections[alias].queries]


def seen_by_a_wrapper(alias: str) -> list[str]:
    seen: list[str] = []

    def wrapper(execute: Any, statement: str, params: Any, many: bool, context: Any) -> Any:
        assert context["connection"] is connections[alias]
        seen.append(f"{normal(statement)} {params} {many}")
        return execute(statement, params, many, context)

    with connections[alias].execute_wrapper(wrapper):
        statements_of_all_kinds(alias)
    return seen


@pytest.mark.parametrize("look", [captured, logged_in_debug_mode, seen_by_a_wrapper])
def test_the_statements_that_are_seen_are_djangos(look: Callable[[str], list[str]]) -> None:
    """With BEGIN, COMMIT, ROLLBACK and savepoints; without what the pool asks or cleans."""
    with unpooled(CONN_HEALTH_CHECKS=True) as alias:
        one(alias)
        expected = look(alias)
    with brief(CONN_HEALTH_CHECKS=True) as alias:
        one(alias)
        assert look(alias) == expected
        with request():
            assert look(alias) == expected
        assert [statement for statement in expected if "SAVEPOINT" in statement]
        assert ("COMMIT" in expected) == (look is not seen_by_a_wrapper)
        connections[alias].close()
        assert in_use(alias) == 0


def test_a_block_without_a_statement_logs_none() -> None:
    one()
    with override_settings(DEBUG=True):
        reset_queries()
        with transaction.atomic(), transaction.atomic(savepoint=False):
            pass
        assert connection.queries == []
        with transaction.atomic():
            one()
        assert [query["sql"] for query in connection.queries[1:2]] == ["SELECT 1"]
        assert [query["sql"] for query in connection.queries[2:]] == ["COMMIT"]
        assert connection.queries[0]["sql"].startswith("BEGIN")


def test_debug_mode_holds_nothing_more() -> None:
    with override_settings(DEBUG=True):
        one()
        assert in_use() == 0
        with transaction.atomic():
            add("a")
            assert in_use() == 1
        assert in_use() == 0
        assert [note.text for note in Note.objects.iterator(chunk_size=1)] == ["a"]
        assert in_use() == 0


def test_assert_num_queries_counts_as_in_django_and_keeps_no_connection() -> None:
    """It calls ensure_connection(), but uses no object of the driver's."""
    case = TransactionTestCase()
    with brief() as alias:
        with request():
            with case.assertNumQueries(4, using=alias):
                one(alias)
                with transaction.atomic(using=alias):
                    add("a", alias)
            assert in_use(alias) == 0
            with pytest.raises(AssertionError), case.assertNumQueries(1, using=alias):
                one(alias)
                one(alias)
        assert in_use(alias) == 0


def test_a_wrapper_that_refuses_leaves_nothing_held() -> None:
    def refuse(*arguments: Any) -> None:
        raise ZeroDivisionError

    with connection.execute_wrapper(refuse):
        with pytest.raises(ZeroDivisionError):
            one()
        assert in_use() == 0
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            one()
        assert in_use() == 0
    one()
    assert in_use() == 0


# -- two aliases -------------------------------------------------------------------------------------


def test_two_aliases_in_one_request_each_have_their_transaction_and_their_connection() -> None:
    with brief() as first, brief() as second, request():
        with transaction.atomic(using=first):
            add("first", first)
            assert (in_use(first), in_use(second)) == (1, 0)
            assert Note.objects.using(second).count() == 0
            assert (in_use(first), in_use(second)) == (1, 0)
            with suppress(ZeroDivisionError), transaction.atomic(using=second):
                assert texts(second) == []
                assert (in_use(first), in_use(second)) == (1, 1)
                raise ZeroDivisionError
            assert (in_use(first), in_use(second)) == (1, 0)
        assert (in_use(first), in_use(second)) == (0, 0)
        assert texts(second) == ["first"]
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=first):
            with transaction.atomic(using=second):
                transaction.on_commit(lambda: told.append((in_use(first), in_use(second))), using=second)
                add("second", second)
            texts(first)
            raise ZeroDivisionError
        assert told == [(0, 0)]
        assert committed() == ["first", "second"]


def test_an_iterator_over_one_alias_while_another_one_writes() -> None:
    add_many("abc")
    rows = DRIVER != "sqlite3"  # Where a reader keeps writers out.
    with brief() as first, brief() as second, request():
        for note in Note.objects.using(first).order_by("id").iterator(chunk_size=1):
            assert (in_use(first), in_use(second)) == (1, 0)
            if rows:
                Note.objects.using(second).filter(id=note.id).update(text=note.text.upper())
        assert (in_use(first), in_use(second)) == (0, 0)
        assert committed() == ([*"ABC"] if rows else [*"abc"])


def test_a_scope_and_a_release_of_one_alias_are_no_concern_of_the_other() -> None:
    with brief() as first, another_alias(POOL={"SIZE": 2}) as second, request():
        one(second)
        with transaction.atomic(using=first):
            one(first)
            assert (in_use(first), in_use(second)) == (1, 1)
            pooling.release(second)
            assert (in_use(first), in_use(second)) == (1, 0)
        assert (in_use(first), in_use(second)) == (0, 0)


# -- the ORM -----------------------------------------------------------------------------------------


def test_bulk_create_is_all_or_nothing() -> None:
    assert len(Note.objects.bulk_create([Note(text=text) for text in "abcde"], batch_size=2)) == 5
    assert (in_use(), committed()) == (0, [*"abcde"])
    with pytest.raises(IntegrityError):
        Note.objects.bulk_create([Note(id=10**6, text="x"), Note(id=10**6, text="y")], batch_size=1)
    assert (in_use(), committed()) == (0, [*"abcde"])
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Note.objects.bulk_create([Note(text="never")])
        raise ZeroDivisionError
    Note.objects.bulk_create([Note(id=10**6, text="x"), Note(id=10**6, text="y")], ignore_conflicts=True)
    assert (in_use(), committed()) == (0, [*"abcdex"])


def test_bulk_update_and_in_bulk() -> None:
    add_many("abc")
    notes = list(Note.objects.order_by("id"))
    for note in notes:
        note.text = note.text.upper()
    assert Note.objects.bulk_update(notes, ["text"], batch_size=1) == 3
    assert in_use() == 0
    found = Note.objects.in_bulk([note.id for note in notes])
    assert [found[note.id].text for note in notes] == [*"ABC"]
    assert Note.objects.in_bulk([]) == {}
    assert in_use() == 0


def test_a_race_of_get_or_create_makes_one_row() -> None:
    together = threading.Barrier(6)

    def race(number: int) -> tuple[Note, bool]:
        together.wait(PATIENCE)
        return Note.objects.get_or_create(id=10**6, defaults={"text": f"by {number}"})

    results = in_threads([partial(race, number) for number in range(6)])
    assert sum(was_created for _, was_created in results) == 1
    assert [{note.text for note, _ in results}] == [set(committed())]
    assert in_use() == 0


def test_get_or_create_in_a_block_survives_the_conflict() -> None:
    """It finds nothing, since it looks for another text, and its insert fails in a savepoint."""
    Note.objects.create(id=10**6, text="a")
    with transaction.atomic():
        with pytest.raises(IntegrityError):
            Note.objects.get_or_create(text="other", defaults={"id": 10**6})
        add("b")
        assert in_use() == 1
    assert (in_use(), sorted(committed())) == (0, ["a", "b"])
    with pytest.raises(IntegrityError):
        Note.objects.get_or_create(text="other", defaults={"id": 10**6})
    assert in_use() == 0
    add("c")
    assert sorted(committed()) == ["a", "b", "c"]


# There a block that reads before it writes fails at once when somebody else writes, as in plain Django.
@pytest.mark.never("sqlite3", "threads")
def test_update_or_create_at_the_same_time() -> None:
    Note.objects.create(id=10**6, text="a")

    def change(number: int) -> None:
        for turn in range(3):
            note, was_created = Note.objects.update_or_create(id=10**6, defaults={"text": f"{number} {turn}"})
            assert (note.text, was_created) == (f"{number} {turn}", False)

    in_threads([partial(change, number) for number in range(6)])
    assert [text.split()[1] for text in committed()] == ["2"]
    assert in_use() == 0


def test_update_or_create_is_one_block() -> None:
    def fail() -> str:
        told.append((in_use(), connection.in_atomic_block))
        raise ZeroDivisionError

    Note.objects.create(id=10**6, text="a")
    with pytest.raises(ZeroDivisionError):
        Note.objects.update_or_create(id=10**6, defaults={"text": fail})
    assert told == [(1, True)]
    assert (in_use(), committed()) == (0, ["a"])
    assert Note.objects.update_or_create(id=10**6, defaults={"text": "b"})[1] is False
    assert Note.objects.update_or_create(id=10**6 + 1, defaults={"text": "c"})[1] is True
    assert (in_use(), committed()) == (0, ["b", "c"])


def test_reads_of_all_kinds_hold_nothing_afterwards() -> None:
    add_many("abc")
    notes = Note.objects.order_by("id")
    reads: list[Callable[[], Any]] = [
        notes.count,
        notes.exists,
        notes.first,
        notes.last,
        lambda: notes[1],
        lambda: list(notes[:2]),
        lambda: list(notes.values("text").distinct()),
        lambda: notes.get(text="a").refresh_from_db(),
        lambda: Note.objects.union(Note.objects.filter(text="a")).count(),
        lambda: notes.explain(),
        lambda: [*notes.raw("SELECT * FROM behaviour_note ORDER BY id")],
        lambda: bool(notes.filter(text__in=notes.values("text"))),
    ]
    for read in reads:
        read()
        assert in_use() == 0
    assert Note.objects.filter(text="a").delete()[0] == 1
    assert in_use() == 0


def portals(alias: str) -> list[Any]:
    """Cursors that the server keeps for this session."""
    return sql("SELECT is_holdable FROM pg_cursors", using=alias)


@pytest.mark.only("psycopg", "psycopg2")
def test_a_cursor_of_the_servers_outlives_autocommit_but_not_its_block() -> None:
    with brief() as alias, request():
        add_many("abcdef", alias)
        for in_a_block in (False, True):
            if in_a_block:
                block = transaction.atomic(using=alias)
                block.__enter__()
            notes = Note.objects.using(alias).order_by("id").iterator(chunk_size=2)
            assert in_use(alias) == 0
            assert next(notes).text == "a"
            number = server_id(alias)
            assert portals(alias) == [(not in_a_block,)]
            assert [note.text for note in notes] == [*"bcdef"]
            if in_a_block:
                assert in_use(alias) == 1
                assert portals(alias) == []
                block.__exit__(None, None, None)
            assert in_use(alias) == 0
            assert (server_id(alias), portals(alias)) == (number, [])
        assert (pooling.stats(alias).opened, pooling.stats(alias).resets) == (1, 0)


@pytest.mark.only("psycopg", "psycopg2")
def test_two_cursors_of_the_servers_at_the_same_time_share_one_session() -> None:
    with brief() as alias, request():
        add_many("abc", alias)
        notes = Note.objects.using(alias).order_by("id")
        pairs = []
        for first in notes.iterator(chunk_size=1):
            for second in notes.iterator(chunk_size=1):
                pairs.append(first.text + second.text)
                assert len(portals(alias)) == 2
        assert pairs == [first + second for first in "abc" for second in "abc"]
        assert in_use(alias) == 0


# psycopg2 complains, as in plain Django, that its cursor has ended with the block.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_iterator_that_outlives_its_block_holds_until_it_is_dropped() -> None:
    with brief() as alias:
        with request():
            add_many("abc", alias)
            with transaction.atomic(using=alias):
                notes = Note.objects.using(alias).order_by("id").iterator(chunk_size=1)
                assert next(notes).text == "a"
            assert in_use(alias) == 1
            add("d", alias)
            assert committed() == [*"abcd"]
            del notes
            gc.collect()
            token(alias)
        assert in_use(alias) == 0
        with request():
            assert texts(alias) == [*"abcd"]
            assert in_use(alias) == 0


@pytest.mark.only("psycopg", "psycopg2")
def test_without_cursors_of_the_server_an_iterator_reads_all_at_once_and_holds_nothing() -> None:
    with brief(DISABLE_SERVER_SIDE_CURSORS=True) as alias, request():
        add_many("abc", alias)
        notes = Note.objects.using(alias).order_by("id").iterator(chunk_size=1)
        assert next(notes).text == "a"
        assert (in_use(alias), portals(alias)) == (0, [])
        assert [note.text for note in notes] == ["b", "c"]
        assert in_use(alias) == 0


# -- a task next to others -----------------------------------------------------------------------------


def test_a_task_of_200_statements_next_to_ten_others_on_two_connections() -> None:
    pooling.set_pool_size(2, max_outstanding=2, timeout=PATIENCE)
    # There one writes at a time, and readers are in its way.
    writers = 1 if DRIVER == "sqlite3" else 11

    def change(number: int, turns: int) -> None:
        note = Note.objects.create(text=f"{number} 0")
        for turn in range(1, turns + 1):
            if number >= writers:
                with transaction.atomic():
                    token()
                continue
            if turn % 3 == 0:
                with transaction.atomic():
                    mine = Note.objects.select_for_update().get(id=note.id)
                    assert mine.text == f"{number} {turn - 1}"
                    mine.text = f"{number} {turn}"
                    mine.save()
            elif turn % 3 == 1:
                assert Note.objects.filter(text=f"{number} {turn - 1}").update(text=f"{number} {turn}") == 1
            else:
                found = [one_note.text for one_note in Note.objects.filter(id=note.id).iterator()]
                assert found == [f"{number} {turn - 1}"]
                with connection.cursor() as cursor:
                    cursor.execute(
                        "UPDATE behaviour_note SET text = %s WHERE id = %s", [f"{number} {turn}", note.id]
                    )
                    assert cursor.rowcount == 1

    in_threads([partial(change, 0, 100), *[partial(change, number, 20) for number in range(1, 11)]])
    assert in_use() == 0
    expected = ["0 100", *[f"{number} {20 if number < writers else 0}" for number in range(1, 11)]]
    assert sorted(committed()) == sorted(expected)
    assert pooling.stats("default").waiting == 0
    assert_whole()


# -- where it once went wrong ----------------------------------------------------------------------------

if MYSQL:
    ASKING = "INSERT INTO behaviour_note (text) VALUES (CONCAT(LAST_INSERT_ID(), %s))"
elif POSTGRESQL:
    ASKING = "INSERT INTO behaviour_note (text) VALUES (currval('behaviour_note_id_seq')::text || %s)"
else:
    ASKING = "INSERT INTO behaviour_note (text) VALUES (last_insert_rowid() || %s)"


def test_executemany_too_is_refused_what_the_last_statement_left() -> None:
    add("a")
    with pytest.raises(TransactionManagementError, match=r"atomic\(\)"), connection.cursor() as cursor:
        cursor.executemany(ASKING, [("x",), ("y",)])
    assert committed() == ["a"]


@pytest.mark.parametrize("end", [transaction.commit, transaction.rollback])
def test_where_autocommit_is_off_the_end_of_the_transaction_gives_back(end: Callable[..., None]) -> None:
    with brief(AUTOCOMMIT=False) as alias, request():
        add("a", alias)
        assert in_use(alias) == 1
        end(using=alias)
        assert in_use(alias) == 0
        texts(alias)
        assert in_use(alias) == 1
        end(using=alias)
        assert in_use(alias) == 0


def test_ensure_connection_in_a_block_keeps_nothing_beyond_it() -> None:
    with brief() as alias, request():
        with transaction.atomic(using=alias):
            connections[alias].ensure_connection()
            one(alias)
        assert in_use(alias) == 0


def test_ensure_connection_in_a_block_that_has_begun_keeps_nothing_beyond_it() -> None:
    with brief() as alias, request():
        with transaction.atomic(using=alias):
            one(alias)
            connections[alias].ensure_connection()
        assert in_use(alias) == 0


@pytest.mark.only("threads")
@pytest.mark.never("sqlite3")
def test_a_time_limit_that_strikes_inside_of_a_statement_of_the_orm_comes_out_as_it_is(
    observer: Observer,
) -> None:
    """As Celery's soft limit does, which is an Exception; Django closes the cursor then."""
    add("a")
    sleep = "SLEEP(0.5)" if MYSQL else "pg_sleep(0.5)::text"
    looking = (
        "SELECT 1 FROM information_schema.processlist WHERE state = 'User sleep'"
        if MYSQL
        else f"SELECT 1 FROM pg_stat_activity WHERE datname = '{observer.name}' AND wait_event = 'PgSleep'"
    )
    died_of: list[str] = []

    def work() -> None:
        try:
            list(Note.objects.annotate(slept=RawSQL(sleep, [])))
        except BaseException as error:
            died_of.append(type(error).__name__)

    thread = threading.Thread(target=work)
    thread.start()
    eventually(lambda: observer.rows(looking))
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(TooLate))
    thread.join(PATIENCE)
    assert died_of == ["TooLate"]
    eventually(lambda: in_use() == 0)
