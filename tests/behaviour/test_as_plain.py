"""What other people's code does with Django's connections works as without a pool."""

from __future__ import annotations

import asyncio
import copy
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import close_old_connections, connection, connections, models, transaction
from django.test.utils import CaptureQueriesContext

from django_db_pooling import pooling
from tests.behaviour.conftest import (
    another_alias,
    assert_whole,
    committed,
    eventually,
    in_thread,
    in_threads,
    one,
    plain,
    request_finished,
    request_started,
    server_id,
    sql,
    token,
)
from tests.behaviour.models import Note

pytestmark = pytest.mark.transaction_scope


def in_use(using: str = "default") -> int:
    return pooling.stats(using).in_use


# -- cursors whose wrapper is dropped -----------------------------------------------------------------


def _chained() -> Any:
    return connection.cursor().execute("SELECT 7").fetchone()


def _iterated() -> Any:
    [row] = list(connection.cursor().execute("SELECT 7"))
    return row


def _raw() -> Any:
    raw = connection.cursor().cursor
    raw.execute("SELECT 7")
    assert in_use() == 1
    return raw.fetchone()


def _wrapped_again() -> Any:
    """As django-debug-toolbar's panel does."""
    made = connection.cursor()
    wrapper = type("Panel", (type(made),), {})
    with wrapper(made.cursor, connection) as cursor:
        del made
        gc.collect()
        cursor.execute("SELECT 7")
        return cursor.fetchone()


@pytest.mark.parametrize("read", [_chained, _iterated, _raw, _wrapped_again])
def test_a_cursor_is_read_that_outlives_django_s_wrapper_of_it(read: Callable[[], Any]) -> None:
    if read in (_chained, _iterated) and connection.settings_dict["ENGINE"].endswith("mysql"):
        pytest.skip("execute() of these drivers returns a number")
    if read in (_chained, _iterated) and sys.modules.get("psycopg", 0) is None:
        pytest.skip("execute() of psycopg2 returns None")
    for _ in range(3):
        assert tuple(read()) == (7,)
        gc.collect()
        assert in_use() == 0
    assert_whole()


def test_a_driver_s_cursor_holds_the_connection_until_it_is_closed() -> None:
    raw = connection.cursor().cursor
    gc.collect()
    raw.execute("SELECT 7")
    number = server_id()
    assert in_use() == 1
    token()
    assert (in_use(), server_id()) == (1, number)
    raw.close()
    # Nobody tells the close of a driver's own cursor.
    del raw
    gc.collect()
    assert in_use() == 0


# -- close_old_connections() in between ---------------------------------------------------------------

ROWS = 1000


@pytest.fixture
def many_rows() -> Iterator[None]:
    Note.objects.bulk_create([Note(text=str(number)) for number in range(ROWS)])
    yield


@pytest.mark.usefixtures("many_rows")
@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_close_old_connections_leaves_a_cursor_alone_that_is_read(scope: str) -> None:
    with another_alias(CONN_MAX_AGE=None, POOL={"SCOPE": scope, "SIZE": 2, "MAX_OUTSTANDING": 4}) as alias:
        request_started()
        seen = 0
        for note in Note.objects.using(alias).order_by("id").iterator(chunk_size=50):
            assert note.text == str(seen)
            seen += 1
            if seen % 100 == 0:
                close_old_connections()
                connections[alias].close_if_unusable_or_obsolete()
        assert seen == ROWS
        close_old_connections()
        token(alias)
        request_finished()
        assert in_use(alias) == 0


@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_at_the_end_of_a_request_an_open_cursor_keeps_nothing(scope: str) -> None:
    with another_alias(CONN_MAX_AGE=None, POOL={"SCOPE": scope, "SIZE": 2, "MAX_OUTSTANDING": 4}) as alias:
        request_started()
        cursor = connections[alias].cursor()
        cursor.execute("SELECT 7")
        close_old_connections()
        assert in_use(alias) == 1
        request_finished()
        assert in_use(alias) == 0
        del cursor


def test_without_an_open_cursor_a_thread_gives_back_by_it() -> None:
    def job() -> None:
        connection.ensure_connection()
        assert in_use() == 1
        close_old_connections()
        assert in_use() == 0

    in_thread(job)


# -- event loops ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_a_block_in_an_event_loop_is_refused_as_in_django(scope: str) -> None:
    reached: list[str] = []

    async def view(alias: str) -> None:
        with transaction.atomic(using=alias):
            reached.append("the block")

    with another_alias(POOL={"SCOPE": scope}) as alias:
        for _ in range(2):
            with pytest.raises(SynchronousOnlyOperation):
                in_thread(lambda: asyncio.run(view(alias)))
        assert reached == []
        assert in_use(alias) == 0
        with transaction.atomic(using=alias):
            token(alias)


def test_a_block_in_an_event_loop_works_where_django_was_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")

    async def view() -> None:
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            Note.objects.create(text="never")
            raise ZeroDivisionError
        with transaction.atomic():
            Note.objects.create(text="kept")

    in_thread(lambda: asyncio.run(view()))
    assert committed() == ["kept"]
    eventually(lambda: in_use() == 0)


# -- what Django's own code asks for ---------------------------------------------------------------------


def _many() -> None:
    Note.objects.bulk_create([Note(text=text) for text in "abc"])
    notes = list(Note.objects.in_bulk())
    Note.objects.bulk_update([Note(pk=pk, text="d") for pk in notes], ["text"])


def _capture() -> None:
    with CaptureQueriesContext(connection):
        Note.objects.count()


def _quote() -> None:
    if connection.vendor != "sqlite":
        # Whose PRAGMA changes the session.
        with connection.schema_editor(collect_sql=True, atomic=False) as editor:
            editor.quote_value("it's")
    connection.schema_editor(collect_sql=True).quote_value("it's")


@pytest.mark.parametrize("do", [_many, _capture, _quote])
def test_what_django_s_code_asks_for_is_no_pin(do: Callable[[], None]) -> None:
    pins = pooling.stats("default").pins
    do()
    assert in_use() == 0
    assert pooling.stats("default").pins == pins


def test_what_the_user_s_code_asks_for_is_one() -> None:
    connection.ensure_connection()
    assert in_use() == 1
    token()
    assert in_use() == 1
    connection.close()


# -- schema editors ----------------------------------------------------------------------------------------


def test_a_schema_editor_has_its_connection_from_its_beginning_to_its_end() -> None:
    for atomic in (True, False):
        with connection.schema_editor(atomic=atomic) as editor:
            raw = connection.connection
            assert raw is not None
            editor.execute("CREATE TABLE behaviour_schema (a INTEGER)")
            assert connection.connection is raw
            editor.execute("DROP TABLE behaviour_schema")
            assert connection.connection is raw
        connection.close()
        assert in_use() == 0


def test_a_schema_editor_that_fails_rolls_back_and_gives_back() -> None:
    class Oops(Exception):
        pass

    for atomic in (True, False):
        with pytest.raises(Oops), connection.schema_editor(atomic=atomic):
            token()
            raise Oops
        connection.close()
        assert in_use() == 0
        token()
        assert in_use() == 0
    assert_whole()


@pytest.fixture
def no_hstore() -> Iterator[None]:
    from django.contrib.postgres.signals import get_citext_oids, get_hstore_oids

    def drop() -> None:
        with plain() as wrapper, wrapper.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS behaviour_thing")
            cursor.execute("DROP EXTENSION IF EXISTS hstore")
        get_hstore_oids.cache_clear()
        get_citext_oids.cache_clear()

    drop()
    yield
    drop()


def _thing() -> Any:
    from django.contrib.postgres.fields import HStoreField

    meta = type("Meta", (), {"app_label": "behaviour", "db_table": "behaviour_thing", "apps": _apps()})
    fields = {"tags": HStoreField(default=dict), "Meta": meta, "__module__": __name__}
    return type("Thing", (models.Model,), fields)


def _apps() -> Any:
    from django.apps.registry import Apps

    return Apps()


@pytest.mark.only("psycopg")
@pytest.mark.usefixtures("no_hstore")
@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("scope", ["request", "transaction", None])
def test_an_extension_s_types_are_known_on_each_connection(atomic: bool, scope: str | None) -> None:
    """Also on those that were opened before it was there."""
    from django.contrib.postgres.operations import HStoreExtension
    from django.contrib.postgres.signals import register_type_handlers
    from django.db.backends.signals import connection_created
    from django.db.migrations.state import ProjectState

    thing = _thing()
    connection_created.connect(register_type_handlers)

    def write() -> Any:
        thing.objects.create(tags={"a": "b"})
        return thing.objects.order_by("id").last().tags

    def migrate() -> None:
        token()
        with connection.schema_editor(atomic=atomic) as editor:
            HStoreExtension().database_forwards("shop", editor, ProjectState(), ProjectState())
            editor.create_model(thing)
        assert write() == {"a": "b"}

    open_before = threading.Barrier(2 + 1)

    def early() -> None:
        token()
        open_before.wait(10)

    try:
        threads = [threading.Thread(target=pooling.scope("request")(early)) for _ in range(2)]
        for thread in threads:
            thread.start()
        open_before.wait(10)
        for thread in threads:
            thread.join(10)
        eventually(lambda: pooling.stats("default").idle == 2)
        if scope is None:
            migrate()
        else:
            pooling.scope(scope)(migrate)()
        together = threading.Barrier(3)

        def late() -> Any:
            token()
            together.wait(10)
            return write()

        assert in_threads([pooling.scope("request")(late)] * 3) == [{"a": "b"}] * 3
    finally:
        connection_created.disconnect(register_type_handlers)
        connection.close()


@pytest.mark.only("psycopg")
@pytest.mark.usefixtures("no_hstore")
@pytest.mark.parametrize("scope", ["request", "transaction"])
@pytest.mark.parametrize("in_block", [True, False])
def test_types_that_a_statement_has_made_are_known_everywhere(scope: Any, in_block: bool) -> None:
    """By a cursor, as some engines do when a database is prepared."""
    from django.contrib.postgres.signals import get_hstore_oids, register_type_handlers
    from django.db.backends.signals import connection_created

    def read() -> Any:
        return sql("SELECT %s::hstore", {"a": "1"})

    connection_created.connect(register_type_handlers)
    try:
        in_threads([one] * 3)
        with pooling.scope(scope):
            with transaction.atomic() if in_block else nullcontext():
                sql("CREATE EXTENSION hstore")
            get_hstore_oids.cache_clear()
            assert in_threads([read] * 3) == [[({"a": "1"},)]] * 3
    finally:
        connection_created.disconnect(register_type_handlers)
        connection.close()


@pytest.mark.only("psycopg")
@pytest.mark.usefixtures("no_hstore")
def test_a_constraint_as_the_first_operation_can_quote_its_value() -> None:
    from django.contrib.postgres.signals import register_type_handlers
    from django.db.backends.signals import connection_created

    with plain() as wrapper, wrapper.cursor() as cursor:
        cursor.execute("CREATE EXTENSION hstore")
    thing = _thing()
    connection_created.connect(register_type_handlers)
    try:
        with connection.schema_editor() as editor:
            editor.create_model(thing)
        connection.close()
        condition = models.Q(tags__contains={"a": "1"})
        with connection.schema_editor() as editor:
            editor.add_constraint(thing, models.CheckConstraint(name="has_a", condition=condition))
    finally:
        connection_created.disconnect(register_type_handlers)
        connection.close()


# -- SQLite's mode of transactions -------------------------------------------------------------------------


def _is_exclusive() -> bool:
    """Whether nobody else may even write now."""
    with plain() as other:
        other.ensure_connection()
        other.connection.execute("PRAGMA busy_timeout = 0")
        try:
            other.connection.execute("BEGIN IMMEDIATE")
        except other.Database.OperationalError:
            return True
        other.connection.rollback()
        return False


@pytest.mark.only("sqlite3")
@pytest.mark.parametrize("scope", ["request", "transaction"])
@pytest.mark.parametrize("before", ["nothing", "a statement", "a new connection", "a pool"])
def test_a_mode_that_is_set_for_a_block_decides_in_it(scope: str, before: str) -> None:
    def job() -> None:
        if before == "a pool":
            token(alias)
            pooling.release(alias)
            return in_thread(block)
        if before != "nothing":
            token(alias)
        if before == "a new connection":
            connections[alias].close()
            pooling.close_all(alias)
        block()
        return None

    def block() -> None:
        wrapper = connections[alias]
        wrapper.transaction_mode = "EXCLUSIVE"
        try:
            with transaction.atomic(using=alias):
                assert _is_exclusive() or (before, scope) == ("nothing", "request")
        finally:
            wrapper.transaction_mode = None
        with transaction.atomic(using=alias):
            assert not _is_exclusive()

    with another_alias(POOL={"SIZE": 2, "MAX_OUTSTANDING": 4}) as alias:
        pooling.scope(scope)(job)()
        assert in_use(alias) == 0


@pytest.mark.only("sqlite3")
def test_a_mode_that_is_set_outlives_checkouts() -> None:
    connection.ensure_connection()
    connection.close()
    connection.transaction_mode = "IMMEDIATE"
    token()
    with transaction.atomic():
        assert _is_exclusive()
    token()
    with transaction.atomic():
        assert _is_exclusive()


@pytest.mark.only("sqlite3")
def test_a_mode_that_a_thread_has_set_is_not_the_next_one_s() -> None:
    def leave() -> None:
        token()
        connection.transaction_mode = "EXCLUSIVE"

    def look() -> bool:
        with transaction.atomic():
            return _is_exclusive()

    for _ in range(2):
        in_thread(leave)
        gc.collect()
        assert in_thread(look) is False


# -- wrappers that are collected ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["copy", "shallow"])
@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_a_wrapper_and_a_generator_that_reads_on_it_are_collected_together(how: str, scope: str) -> None:
    def rows(wrapper: Any) -> Iterator[Any]:
        with wrapper.cursor() as cursor:
            cursor.execute("SELECT 1 UNION SELECT 2")
            yield from cursor

    def make() -> None:
        original: Any = connections["default"]
        wrapper = original.copy() if how == "copy" else copy.copy(original)
        generator = rows(wrapper)
        next(generator)
        wrapper.reads = generator

    told: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, told.append
    gc.disable()
    try:
        with pooling.scope(scope):
            make()
            gc.collect()
    finally:
        gc.enable()
        sys.unraisablehook = hook
    assert told == []
    eventually(lambda: in_use() == 0)
    assert_whole()


def test_a_dropped_cursor_of_a_server_is_closed() -> None:
    """A generator that is closed before it is collected."""

    def rows() -> Iterator[Any]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 UNION SELECT 2")
            yield from cursor

    with closing(rows()) as generator:  # type: ignore[type-var]
        next(generator)
        assert in_use() == 1
    assert in_use() == 0
