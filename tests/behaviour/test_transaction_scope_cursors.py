"""Transaction scope with the rest of Django: procedures, many rows, cursors, locks."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.db import (
    DatabaseError,
    Error,
    OperationalError,
    connection,
    connections,
    transaction,
)
from django.db.transaction import TransactionManagementError

from django_db_pooling import pooling
from tests.behaviour.brief import (
    INSERT,
    add,
    add_many,
    brief,
    checkouts,
    cooperative,
    in_use,
    nothing_told,  # noqa: F401
    request,
    servers,
    texts,
    unpooled,
)
from tests.behaviour.conftest import (
    MARIADB,
    MYSQL,
    PATIENCE,
    assert_whole,
    committed,
    eventually,
    in_thread,
    in_threads,
    plain,
    sql,
    token,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import Observer

pytestmark = [pytest.mark.transaction_scope, pytest.mark.usefixtures("nothing_told")]

# -- procedures, many rows, cursors ----------------------------------------------------------------------


if MYSQL:
    PROCEDURES = {
        "PROCEDURE behaviour_add": """(what VARCHAR(100)) BEGIN
            INSERT INTO behaviour_note (text) VALUES (what); SELECT COUNT(*) FROM behaviour_note; END""",
        "PROCEDURE behaviour_change": "() SET @mine = 'mine'",
        "PROCEDURE behaviour_begin": """() BEGIN
            START TRANSACTION; INSERT INTO behaviour_note (text) VALUES ('never'); END""",
        "FUNCTION behaviour_twice": "(what INT) RETURNS INT DETERMINISTIC RETURN 2 * what",
    }
    CHANGED = "SELECT @mine"
else:
    PROCEDURES = {
        "FUNCTION behaviour_add": """(what text) RETURNS bigint LANGUAGE sql AS
            'INSERT INTO behaviour_note (text) VALUES ($1); SELECT count(*) FROM behaviour_note'""",
        "FUNCTION behaviour_change": """() RETURNS text LANGUAGE sql AS
            $$ SELECT set_config('application_name', 'mine', false) $$""",
        "PROCEDURE behaviour_put": """(what text) LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO behaviour_note (text) VALUES (what); COMMIT;
            INSERT INTO behaviour_note (text) VALUES ('never'); ROLLBACK; END $$""",
        "FUNCTION behaviour_twice": "(what integer) RETURNS integer LANGUAGE sql AS 'SELECT 2 * $1'",
    }
    CHANGED = "SELECT current_setting('application_name')"


@pytest.fixture
def procedures() -> Iterator[None]:
    with plain() as wrapper, wrapper.cursor() as cursor:
        for name, body in PROCEDURES.items():
            cursor.execute(f"DROP {name.split()[0]} IF EXISTS {name.split()[1]}")
            cursor.execute(f"CREATE {name} {body}")
    yield
    with plain() as wrapper, wrapper.cursor() as cursor:
        for name in PROCEDURES:
            cursor.execute(f"DROP {name}")


def call(procedure: str, *params: Any, using: str) -> list[Any]:
    with connections[using].cursor() as cursor:
        cursor.callproc(procedure, params)
        return list(cursor.fetchall()) if cursor.description else []


@servers
@pytest.mark.usefixtures("procedures")
def test_callproc_answers_and_its_connection_is_kept_to_the_end_of_the_request() -> None:
    with brief() as alias:
        with request():
            assert call("behaviour_add", "a", using=alias) == [(1,)]
            assert in_use(alias) == 1
            token(alias)
            assert call("behaviour_add", "b", using=alias) == [(2,)]
            token(alias)
            assert committed() == ["a", "b"]
            assert in_use(alias) == 1
        assert in_use(alias) == 0
        token(alias)
        assert in_use(alias) == 0


@servers
@pytest.mark.usefixtures("procedures")
def test_callproc_belongs_to_its_block() -> None:
    with brief() as alias, request():
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
            assert call("behaviour_add", "never", using=alias) == [(1,)]
            assert committed() == []
            raise ZeroDivisionError
        assert committed() == []
        with transaction.atomic(using=alias):
            call("behaviour_add", "a", using=alias)
        assert committed() == ["a"]
        token(alias)


@servers
@pytest.mark.usefixtures("procedures")
def test_callproc_that_changes_the_session_is_seen_by_its_request_and_by_nobody_else() -> None:
    with brief() as alias:
        untouched = sql(CHANGED, using=alias)
        with request():
            call("behaviour_change", using=alias)
            assert sql(CHANGED, using=alias) == [("mine",)]
            with transaction.atomic(using=alias):
                assert sql(CHANGED, using=alias) == [("mine",)]
            assert in_use(alias) == 1
        for _ in range(2):
            assert sql(CHANGED, using=alias) == untouched
        assert in_use(alias) == 0


@servers
@pytest.mark.usefixtures("procedures")
def test_callproc_with_the_result_left_unread_answers_nobody_else() -> None:
    with brief() as alias:
        with request():
            cursor = connections[alias].cursor()
            cursor.callproc("behaviour_add", ("a",))
            del cursor
            gc.collect()
            with suppress(Error):
                # PyMySQL's connection is in the middle of a result then, as it would be in plain Django.
                token(alias)
        with request():
            token(alias)
        assert in_use(alias) == 0
    assert_whole()


@pytest.mark.only("pymysql", "mysqlclient")
@pytest.mark.usefixtures("procedures")
def test_a_transaction_that_a_procedure_begins_is_rolled_back_at_the_end_of_the_request() -> None:
    with brief() as alias:
        with request():
            call("behaviour_begin", using=alias)
            assert in_use(alias) == 1
            assert texts(alias) == ["never"]
            assert committed() == []
        assert in_use(alias) == 0
        assert texts(alias) == []


@pytest.mark.only("psycopg", "psycopg2")
@pytest.mark.usefixtures("procedures")
def test_a_procedure_that_commits_by_itself() -> None:
    with brief() as alias:
        with request():
            sql("CALL behaviour_put(%s)", "a", using=alias)
            assert texts(alias) == ["a"]
        assert in_use(alias) == 0
        with pytest.raises(DatabaseError), transaction.atomic(using=alias):
            sql("CALL behaviour_put(%s)", "b", using=alias)
        assert texts(alias) == ["a"]
    assert committed() == ["a"]


@servers
@pytest.mark.usefixtures("procedures")
def test_a_function_in_a_select_holds_nothing() -> None:
    assert sql("SELECT behaviour_twice(21)") == [(42,)]
    assert in_use() == 0


def test_executemany_outside_of_a_block_holds_nothing_afterwards() -> None:
    add_many("abc")
    assert in_use() == 0
    assert committed() == [*"abc"]
    add_many([])
    assert in_use() == 0


def test_executemany_in_a_block_belongs_to_it() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        add_many("never")
        assert in_use() == 1
        raise ZeroDivisionError
    assert (in_use(), committed()) == (0, [])
    with transaction.atomic():
        add_many("ab")
        assert committed() == []
        add_many("c")
    assert (in_use(), committed()) == (0, [*"abc"])


def test_executemany_that_fails_in_a_block_leaves_nothing() -> None:
    with pytest.raises(DatabaseError), transaction.atomic():
        add("never")
        add_many(["never", None])
    assert (in_use(), committed()) == (0, [])
    with pytest.raises(DatabaseError):
        add_many([None])
    assert in_use() == 0
    add("a")
    assert committed() == ["a"]


@servers
def test_executemany_that_changes_the_session_pins() -> None:
    change = "SET @mine = %s" if MYSQL else "SELECT set_config('application_name', %s, false)"
    with brief() as alias:
        untouched = sql(CHANGED, using=alias)
        with request():
            with connections[alias].cursor() as cursor:
                cursor.executemany(change, [("first",), ("mine",)])
            assert in_use(alias) == 1
            assert sql(CHANGED, using=alias) == [("mine",)]
        assert in_use(alias) == 0
        assert sql(CHANGED, using=alias) == untouched


def test_a_cursor_as_a_context_manager_holds_to_its_end_also_when_it_fails() -> None:
    with connection.cursor() as cursor:
        assert in_use() == 1
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
        cursor.execute(INSERT, ["a"])
        assert in_use() == 1
    assert in_use() == 0
    with pytest.raises(ZeroDivisionError), connection.cursor() as cursor:
        cursor.execute(INSERT, ["b"])
        raise ZeroDivisionError
    assert in_use() == 0
    with pytest.raises(DatabaseError), connection.cursor() as cursor:
        cursor.execute("SELECT nonsense FROM nowhere")
    assert in_use() == 0
    assert committed() == ["a", "b"]


def test_a_cursor_that_was_closed_is_of_no_use_any_more() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchall()
    with pytest.raises(Error):
        cursor.execute(INSERT, ["never"])
    assert in_use() == 0
    assert committed() == []


def test_a_cursor_that_outlives_its_block_keeps_the_connection_and_not_the_block() -> None:
    with transaction.atomic():
        cursor = connection.cursor()
        cursor.execute(INSERT, ["a"])
    assert committed() == ["a"]
    assert in_use() == 1
    cursor.execute(INSERT, ["b"])
    assert committed() == ["a", "b"]
    with transaction.atomic():
        add("c")
    assert in_use() == 1
    cursor.close()
    assert in_use() == 0


@pytest.mark.only("psycopg")
def test_copy_belongs_to_its_block() -> None:
    for fails in (True, False):
        with suppress(ZeroDivisionError), transaction.atomic():
            with (
                connection.cursor() as cursor,
                cursor.copy("COPY behaviour_note (text) FROM STDIN") as copy,
            ):
                copy.write_row(["a"])
            assert (in_use(), committed()) == (1, [])
            if fails:
                raise ZeroDivisionError
    assert (in_use(), committed()) == (0, ["a"])


# -- select_for_update -------------------------------------------------------------------------------


def lock(using: str = "default", **options: bool) -> Note:
    return Note.objects.using(using).select_for_update(**options).get()


@servers
def test_select_for_update_in_a_block_keeps_others_out_until_its_end() -> None:
    add("a")

    def try_to_lock() -> str:
        try:
            with transaction.atomic():
                return lock(nowait=True).text
        except OperationalError:
            return "locked"

    with transaction.atomic():
        note = lock()
        token()
        assert in_thread(try_to_lock) == "locked"
        note.text = "b"
        note.save()
        assert in_use() == 1
    # What goes back is committed: its locks are gone with it.
    assert in_thread(try_to_lock) == "b"
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        lock()
        raise ZeroDivisionError
    assert in_thread(try_to_lock) == "b"
    assert in_use() == 0


@servers
@cooperative
def test_a_second_session_waits_for_the_lock_and_reads_what_the_first_has_committed(
    observer: Observer,
) -> None:
    add("a")
    if MYSQL:
        waiting = (
            f"SELECT 1 FROM {'information' if MARIADB else 'performance'}_schema.global_status"
            " WHERE variable_name = 'INNODB_ROW_LOCK_CURRENT_WAITS' AND variable_value > 0"
        )
    else:
        waiting = (
            f"SELECT 1 FROM pg_stat_activity WHERE datname = '{observer.name}' AND wait_event_type = 'Lock'"
        )
    seen: list[str] = []

    def wait_for_lock() -> None:
        with transaction.atomic():
            seen.append(lock().text)

    second = threading.Thread(target=wait_for_lock)
    with transaction.atomic():
        note = lock()
        second.start()
        eventually(lambda: observer.rows(waiting))
        assert (seen, in_use()) == ([], 2)
        note.text = "b"
        note.save()
    second.join(PATIENCE)
    assert not second.is_alive()
    assert seen == ["b"]
    eventually(lambda: in_use() == 0)


@servers
def test_select_for_update_outside_of_a_block_is_refused_as_in_django() -> None:
    add("a")
    with unpooled() as alias, pytest.raises(TransactionManagementError) as djangos:
        lock(alias)
    before = checkouts()
    with pytest.raises(TransactionManagementError) as ours:
        lock()
    assert str(ours.value) == str(djangos.value)
    assert (in_use(), checkouts()) == (0, before)
    with pooling.scope("request"), pytest.raises(TransactionManagementError):
        lock()


@servers
@cooperative
def test_rows_that_are_locked_before_they_are_changed_lose_no_change() -> None:
    add("0")

    def count() -> None:
        for _ in range(5):
            with transaction.atomic():
                note = lock()
                note.text = str(int(note.text) + 1)
                note.save(update_fields=["text"])

    in_threads([count] * 6)
    assert committed() == ["30"]
    assert in_use() == 0
