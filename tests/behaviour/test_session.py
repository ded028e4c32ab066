"""What somebody changes in a session is not there for the next user of the connection."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connection, transaction
from django.db.backends.signals import connection_created

from django_db_pooling import pooling
from django_db_pooling.checks import check_pools
from django_db_pooling.signals import connection_checked_out
from tests.behaviour.conftest import (
    DRIVER,
    MYSQL,
    POSTGRESQL,
    another_alias,
    assert_whole,
    eventually,
    in_thread,
    one,
    plain,
    request,
    request_finished,
    request_started,
    server_id,
    sql,
)
from tests.behaviour.observer import Observer

# Whose sessions can be made as new; those of the others are closed.
RESETS = DRIVER in ("pymysql", "psycopg")

NO_CHANGES = [
    "SELECT 'SET @mine = 1; SET x = 1'",
    "-- SET x = 1\nSELECT 1",
    "SELECT 1 /* ; SET x = 1 */",
] + (["SET LOCAL statement_timeout = 12345", "SELECT set_config('my.x', '1', true)"] if POSTGRESQL else [])


def session() -> dict[str, Any]:
    """All that tells one session from another."""
    if MYSQL:
        changing = {"pseudo_thread_id", "timestamp", "rand_seed1", "rand_seed2", "last_insert_id"}
        changing |= {"error_count", "warning_count", "insert_id", "identity", "pseudo_slave_mode"}
        # Of MySQL: how many there were.
        changing.add("statement_id")
        state = {name: value for name, value in sql("SHOW SESSION VARIABLES") if name not in changing}
        state["database"] = sql("SELECT DATABASE()")
        state["@mine"] = sql("SELECT @mine")
        state["lock"] = sql("SELECT IS_USED_LOCK('mine')")
    elif POSTGRESQL:
        state = {name: value for name, value, _ in sql("SHOW ALL")}
        state["tenant"] = sql("SELECT coalesce(current_setting('my.tenant', true), '')")
        state["user"] = sql("SELECT current_user, session_user, current_schemas(false)")
        state["locks"] = sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        state["channels"] = sql("SELECT count(*) FROM pg_listening_channels()")
        state["cursors"] = sql("SELECT count(*) FROM pg_cursors WHERE is_holdable")
        state["prepared"] = sql("SELECT count(*) FROM pg_prepared_statements WHERE name = 'mine'")
    else:
        state = {
            "cache": sql("PRAGMA cache_size"),
            "databases": [row[1] for row in sql("PRAGMA database_list")],
        }
    with contextlib.suppress(DatabaseError):
        sql("SELECT * FROM mine")
        state["temporary table"] = True
    return state


@pytest.fixture
def resets() -> Callable[[], int]:
    """How many there were in this test."""
    before = pooling.stats("default").resets
    return lambda: pooling.stats("default").resets - before


@pytest.fixture
def fresh() -> dict[str, Any]:
    """The state of a session that nobody has changed, and the pool without it."""
    state: dict[str, Any] = request(session)
    pooling.close_all()
    return state


@pytest.mark.parametrize("statement", NO_CHANGES)
def test_what_changes_nothing_costs_nothing(statement: str, resets: Callable[[], int]) -> None:
    before = request(server_id)

    def work() -> None:
        with transaction.atomic():
            sql(statement)

    request(work)
    assert request(server_id) == before
    assert resets() == 0


@pytest.fixture
def routines() -> Iterator[None]:
    """A trigger and a function that set something."""
    pooling.release()
    with plain() as wrapper, wrapper.cursor() as cursor:
        cursor.execute("CREATE TABLE watched (a INT PRIMARY KEY)")
        cursor.execute("CREATE TRIGGER watcher BEFORE INSERT ON watched FOR EACH ROW SET @mine = NEW.a")
        cursor.execute("CREATE FUNCTION setting() RETURNS INT NO SQL BEGIN SET @mine = 1; RETURN 1; END")
    yield
    with plain() as wrapper, wrapper.cursor() as cursor:
        cursor.execute("DROP TABLE watched")
        cursor.execute("DROP FUNCTION setting")


@pytest.mark.only("pymysql")
@pytest.mark.usefixtures("routines")
@pytest.mark.parametrize("statement", ["INSERT INTO watched VALUES (1)", "DO setting()"])
def test_the_server_tells_what_no_statement_shows(statement: str, resets: Callable[[], int]) -> None:
    for tag in range(2):
        # Also by a session that was made as new.
        request(lambda tag=tag: sql(statement.replace("1)", f"{tag})")))
        assert resets() == tag + 1
        assert request(lambda: sql("SELECT @mine")) == [(None,)]


@pytest.mark.only("pymysql")
def test_what_the_server_has_told_of_a_statement_is_not_taken_for_the_next_ones(
    resets: Callable[[], int],
) -> None:
    def work() -> None:
        # Django's own SET AUTOCOMMIT, which the server tells, too.
        with transaction.atomic():
            sql("SELECT 1")

    request(change)
    assert resets() == 1
    request(work)
    request(lambda: sql("SELECT 1"))
    assert resets() == 1


@pytest.mark.only("pymysql")
def test_a_server_that_tells_nothing_is_used_all_the_same(
    monkeypatch: pytest.MonkeyPatch, resets: Callable[[], int]
) -> None:
    import pymysql

    query = pymysql.connections.Connection.query

    def without_tracking(self: Any, text: str, unbuffered: bool = False) -> Any:
        return query(self, text.replace("session_track_state_change", "no_such_variable"), unbuffered)

    monkeypatch.setattr(pymysql.connections.Connection, "query", without_tracking)
    pooling.close_all()
    request(change)
    assert request(lambda: sql("SELECT @mine")) == [(None,)]
    assert resets() == 1


def change() -> None:
    sql(
        "SET @mine = 1"
        if MYSQL
        else "SET application_name TO 'mine'"
        if POSTGRESQL
        else "PRAGMA cache_size = 123"
    )


def test_what_changed_in_a_transaction_that_was_rolled_back_counts_too(fresh: dict[str, Any]) -> None:
    def work() -> None:
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            change()
            raise ZeroDivisionError

    request(work)
    assert request(session) == fresh


def test_an_open_transaction_and_a_changed_session_are_both_cleaned(fresh: dict[str, Any]) -> None:
    def work() -> None:
        transaction.set_autocommit(False)
        change()
        one()

    request(work)
    assert request(connection.get_autocommit)
    assert request(session) == fresh


def test_a_session_left_by_a_thread_that_has_ended_is_made_new_by_its_next_user(
    fresh: dict[str, Any], resets: Callable[[], int]
) -> None:
    def work() -> Any:
        request_started()
        change()
        return server_id()

    before = in_thread(work)
    gc.collect()
    eventually(lambda: pooling.stats("default").in_use == 0)
    assert resets() == 0
    assert request(session) == fresh
    if RESETS:
        assert request(server_id) == before
    assert_whole()


@pytest.mark.never("sqlite3")
def test_a_changed_connection_that_dies_costs_no_slot_and_no_error(observer: Observer) -> None:
    def work() -> None:
        change()
        observer.kill()

    request(work)
    eventually(lambda: pooling.stats("default").in_use == 0)
    request(one)
    assert_whole()


@pytest.mark.only("pymysql", "psycopg")
def test_a_reset_that_fails_closes_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    request_started()
    change()
    before = server_id()

    def fails() -> None:
        raise DatabaseError("no")

    monkeypatch.setattr(connection, "init_connection_state", fails)
    request_finished()
    assert pooling.stats("default").in_use == 0
    assert pooling.stats("default").idle == 0
    monkeypatch.undo()
    assert request(server_id) != before
    assert_whole()


@pytest.mark.only("pymysql", "psycopg")
def test_a_reset_that_is_interrupted_closes_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interruption(BaseException):
        pass

    def interrupted() -> None:
        raise Interruption

    request_started()
    change()
    monkeypatch.setattr(connection, "init_connection_state", interrupted)
    with pytest.raises(Interruption):
        request_finished()
    monkeypatch.undo()
    assert pooling.stats("default").in_use == 0
    assert_whole()


@pytest.mark.only("pymysql", "psycopg")
def test_a_reset_is_not_among_the_queries_of_a_request(resets: Callable[[], int]) -> None:
    statements = []

    def note(execute: Any, statement: Any, *rest: Any) -> Any:
        statements.append(statement)
        return execute(statement, *rest)

    request_started()
    one()
    connection.force_debug_cursor = True
    with connection.execute_wrapper(note):
        change()
        request_finished()
    assert len(statements) == len(connection.queries) == 1
    connection.force_debug_cursor = False
    assert resets() == 1


@pytest.mark.only("pymysql", "psycopg")
def test_a_pinned_connection_is_made_as_new(fresh: dict[str, Any], resets: Callable[[], int]) -> None:
    pins = pooling.stats("default").pins

    def work() -> None:
        pooling.pin()
        assert pooling.stats("default").in_use == 1
        one()

    request(work)
    assert pooling.stats("default").pins == pins + 1
    assert resets() == 1
    assert request(session) == fresh


@pytest.mark.only("pymysql")
def test_a_pinned_connection_whose_drivers_object_was_told_is_made_as_new() -> None:
    def characters() -> Any:
        return sql("SELECT @@character_set_client, @@collation_connection, 'é'")

    def work() -> None:
        pooling.pin()
        connection.connection.set_character_set("latin1")

    before = request(characters)
    request(work)
    assert request(characters) == before


@pytest.mark.only("pymysql", "psycopg")
def test_reset_always_and_never() -> None:
    with another_alias(POOL={"RESET": "always"}) as alias:
        for _ in range(2):
            request(lambda: one(alias))
        assert pooling.stats(alias).resets == 2
    with another_alias(POOL={"RESET": "never"}) as alias:

        def work() -> None:
            statement = "SET @mine = 1" if MYSQL else "SET application_name TO 'mine'"
            sql(statement, using=alias)

        request(work)
        told = request(lambda: sql("SELECT @mine" if MYSQL else "SHOW application_name", using=alias))
        assert told == [(1 if MYSQL else "mine",)]
        assert pooling.stats(alias).resets == 0


@contextlib.contextmanager
def receiving(signal: Any, receiver: Callable[..., None]) -> Iterator[None]:
    signal.connect(receiver)
    try:
        yield
    finally:
        signal.disconnect(receiver)


def test_receivers_of_connection_checked_out_are_told_at_each_checkout(resets: Callable[[], int]) -> None:
    tenants: Iterator[int] = iter(range(100))
    seen = []

    def receiver(connection: Any, **kwargs: Any) -> None:
        assert connection.alias == "default"
        tenant = next(tenants)
        if MYSQL:
            sql(f"SET @tenant = {tenant}")
        elif POSTGRESQL:
            sql(f"SET my.tenant = '{tenant}'")
        seen.append(tenant)

    with receiving(connection_checked_out, receiver):
        for number in range(3):

            def work() -> Any:
                one()
                if MYSQL:
                    return sql("SELECT @tenant")
                return sql("SELECT current_setting('my.tenant')") if POSTGRESQL else None

            told = request(work)
            assert told in (None, [(number,)], [(str(number),)])
    assert seen == [0, 1, 2]
    assert resets() == 0


def test_a_receiver_of_connection_checked_out_that_fails_costs_no_slot() -> None:
    def receiver(**kwargs: Any) -> None:
        raise ZeroDivisionError

    with receiving(connection_checked_out, receiver), pytest.raises(ZeroDivisionError):
        request(one)
    assert_whole()


def test_a_receiver_of_connection_checked_out_that_closes_gets_djangos_error_and_costs_no_slot() -> None:
    def receiver(connection: Any, **kwargs: Any) -> None:
        connection.close()

    with receiving(connection_checked_out, receiver):
        with pytest.raises(OperationalError, match="connection_checked_out"):
            request(one)
        with pytest.raises(OperationalError, match="connection_checked_out"), transaction.atomic():
            one()
    assert_whole()


def test_what_django_itself_does_changes_no_session(resets: Callable[[], int]) -> None:
    """Otherwise each request would pay for it."""
    with plain() as wrapper:
        assert wrapper.vendor == connection.vendor

    def work() -> None:
        with transaction.atomic():
            with transaction.atomic():
                one()
            transaction.on_commit(lambda: None)
        connection.introspection.table_names()
        one()

    request(work)
    assert resets() == 0


def test_a_receiver_of_connection_created_is_told_of_the_other_signal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def set_tenant(**kwargs: Any) -> None:
        pass

    with receiving(connection_created, set_tenant):
        for _ in range(2):
            with another_alias() as alias:
                request(lambda alias=alias: one(alias))
        assert "django_db_pooling.W003" in [check.id for check in check_pools(None)]
    told = [record.getMessage() for record in caplog.records if "connection_created" in record.getMessage()]
    assert len(told) == 1
    assert "set_tenant" in told[0]
    assert "connection_checked_out" in told[0]
