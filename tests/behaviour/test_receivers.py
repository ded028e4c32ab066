"""What receivers of connection_created and engines of other people's set up is there at every checkout."""

from __future__ import annotations

import copy
import gc
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.backends.signals import connection_created
from django.db.utils import load_backend

from django_db_pooling import pooling
from django_db_pooling.signals import connection_checked_out
from tests.behaviour.conftest import (
    DRIVER,
    MYSQL,
    POSTGRESQL,
    another_alias,
    assert_whole,
    committed,
    in_thread,
    in_threads,
    one,
    request,
    request_finished,
    request_started,
    server_id,
    sql,
)
from tests.behaviour.models import Note
from tests.behaviour.setting_engine.base import SETTING
from tests.behaviour.settings import ENGINES
from tests.unit.fakes import interrupted_at

# Whose sessions can be made as new; those of the others are closed.
RESETS = DRIVER in ("pymysql", "psycopg")
SETTING_ENGINE = "tests.behaviour.setting_engine"


class Forbidden(Exception):
    pass


def forbid_writes(execute: Any, statement: str, *rest: Any) -> Any:
    # As django-read-only, for example.
    if statement.startswith(("INSERT", "UPDATE", "DELETE")):
        raise Forbidden
    return execute(statement, *rest)


@contextmanager
def receiving(signal: Any, receiver: Callable[..., None], sender: Any = None) -> Iterator[None]:
    pooling.close_all()
    signal.connect(receiver, sender=sender)
    try:
        yield
    finally:
        signal.disconnect(receiver, sender=sender)
        pooling.close_all()


def change() -> None:
    sql(
        "SET @mine = 1"
        if MYSQL
        else "SET application_name TO 'mine'"
        if POSTGRESQL
        else "PRAGMA automatic_index = 0"
    )


def tenant(alias: str = "default") -> Any:
    if MYSQL:
        return sql("SELECT @tenant", using=alias)[0][0]
    if POSTGRESQL:
        return sql("SELECT current_setting('my.tenant', true)", using=alias)[0][0] or None
    found = sql("PRAGMA cache_size", using=alias)[0][0]
    return 5 if found == 555 else None


def write() -> bool:
    try:
        Note.objects.create(text="written")
    except Forbidden:
        return False
    return True


# -- execute_wrappers -------------------------------------------------------------------------------------


def append(connection: Any, **kwargs: Any) -> None:
    connection.execute_wrappers.append(forbid_writes)


def append_one_of_its_own(connection: Any, **kwargs: Any) -> None:
    connection.execute_wrappers.append(lambda *arguments: forbid_writes(*arguments))


def insert_where_it_is_not(connection: Any, **kwargs: Any) -> None:
    """As django-read-only does."""
    if forbid_writes not in connection.execute_wrappers:
        connection.execute_wrappers.insert(0, forbid_writes)


def replace(connection: Any, **kwargs: Any) -> None:
    connection.execute_wrappers = [*connection.execute_wrappers, forbid_writes]


WAYS = pytest.mark.parametrize("add", [append, append_one_of_its_own, insert_where_it_is_not, replace])


@WAYS
def test_what_receivers_put_around_statements_is_there_at_every_checkout(add: Any) -> None:
    pooling.release()
    with receiving(connection_created, add):
        opened = pooling.stats("default").opened
        for _ in range(2):
            # One after the other, and at once: on a new connection, and on one that was used.
            assert [in_thread(write) for _ in range(4)] == [False] * 4
            assert in_threads([write] * 4) == [False] * 4
        assert pooling.stats("default").opened <= opened + 4
    assert committed() == []
    assert in_thread(write)


@WAYS
@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_it_is_there_once_and_leaves_with_the_connection(add: Any, scope: str) -> None:
    connection.close()
    with receiving(connection_created, add), pooling.scope(scope):
        for _ in range(3):
            with transaction.atomic():
                one()
                assert len(connection.execute_wrappers) == 1
                with pytest.raises(Forbidden), transaction.atomic():
                    write_or_raise()
            if scope == "transaction":
                assert connection.execute_wrappers == []
            pooling.release()
            assert connection.execute_wrappers == []


def write_or_raise() -> None:
    Note.objects.create(text="written")


def test_a_wrapper_that_has_it_itself_keeps_it_and_the_connection_has_it_too() -> None:
    """django-read-only adds it to the wrappers that are there when it starts."""
    connection.close()
    connection.execute_wrappers.append(forbid_writes)
    try:
        with receiving(connection_created, insert_where_it_is_not):
            for _ in range(2):
                one()
                assert connection.execute_wrappers == [forbid_writes]
                pooling.release()
                assert connection.execute_wrappers == [forbid_writes]
                assert not in_thread(write)
            assert pooling.stats("default").idle == 1
    finally:
        connection.execute_wrappers.clear()


@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_those_of_a_block_are_inside_and_end_with_it(scope: str) -> None:
    told: list[str] = []

    def of_the_connection(execute: Any, *arguments: Any) -> Any:
        told.append("connection")
        return execute(*arguments)

    def of_the_block(execute: Any, *arguments: Any) -> Any:
        told.append("block")
        return execute(*arguments)

    def add(connection: Any, **kwargs: Any) -> None:
        connection.execute_wrappers.append(of_the_connection)

    connection.close()
    with receiving(connection_created, add), pooling.scope(scope):
        for _ in range(2):
            # On a connection that is opened in the block, and on one that is used again.
            with connection.execute_wrapper(of_the_block):
                told.clear()
                one()
                # Before it there may be Django's own, to set up what was opened.
                assert told[-2:] == ["connection", "block"]
                one()
            told.clear()
            one()
            assert told == ["connection"]
            pooling.release()
            assert connection.execute_wrappers == []


def test_a_connect_that_fails_afterwards_leaves_none() -> None:
    def fail(connection: Any, **kwargs: Any) -> None:
        connection.execute_wrappers.append(forbid_writes)
        raise ZeroDivisionError

    connection.close()
    with receiving(connection_created, fail):
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                one()
            assert connection.execute_wrappers == []
    assert write()
    assert_whole()


def test_receivers_that_add_something_keep_no_wrapper_from_being_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    create = type(connections).create_connection

    def counting(self: Any, alias: str) -> Any:
        made.append(alias)
        return create(self, alias)

    monkeypatch.setattr(type(connections), "create_connection", counting)
    with receiving(connection_created, append):
        in_thread(one)
        made.clear()
        for _ in range(3):
            assert not in_thread(write)
        assert len(made) <= 1


def test_a_copy_of_a_wrapper_has_none_of_the_connections() -> None:
    connection.close()
    with receiving(connection_created, append):
        one()
        copied = copy.copy(connections["default"])
        assert copied.execute_wrappers == []
        assert connection.execute_wrappers == [forbid_writes]
        with copied.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert copied.execute_wrappers == [forbid_writes]
        copied.close()
        assert connection.execute_wrappers == [forbid_writes]
        connection.close()


@pytest.mark.never("sqlite3")
@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_a_guard_that_tells_the_tenant_before_each_statement_does_it_for_every_request(scope: str) -> None:
    """As packages for row-level security have it: without it nobody sees a row."""
    current = threading.local()

    def guard(execute: Any, statement: str, params: Any, many: bool, context: Any) -> Any:
        value = current.tenant
        execute(SETTING.replace("5", str(value)), None, False, context)
        return execute(statement, params, many, context)

    def add(connection: Any, **kwargs: Any) -> None:
        connection.execute_wrappers.append(guard)

    def visit(number: int) -> Any:
        request_started()
        current.tenant = number
        try:
            with pooling.scope(scope):
                return int(tenant())
        finally:
            request_finished()

    connection.close()
    with receiving(connection_created, add):
        assert [in_thread(partial(visit, number)) for number in range(6)] == list(range(6))
        assert in_threads([partial(visit, number) for number in range(6)]) == list(range(6))


@pytest.mark.transaction_scope
@pytest.mark.only("sqlite3")
@pytest.mark.only("threads")
# A strike in a finalizer.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_strikes_anywhere_leaves_none_behind_and_takes_none_away() -> None:
    own = [lambda execute, *arguments: execute(*arguments)]
    wrapper = connections["default"]
    wrapper.execute_wrappers.extend(own)

    def work() -> None:
        one()
        pooling.close_all()
        one()

    try:
        with receiving(connection_created, append):
            for point in itertools.count():
                struck = interrupted_at(point, "/django_db_pooling/", work)
                wrapper.in_atomic_block = False
                connections.close_all()
                # The next checkout ends what was left half done.
                with pytest.raises(Forbidden):
                    write_or_raise()
                connections.close_all()
                assert wrapper.execute_wrappers == own, point
                if not struck:
                    break
            assert point > 50
    finally:
        wrapper.execute_wrappers.clear()
        # A connection that was being opened when the strike came, in the frames of that.
        gc.collect()


# -- the sender -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", [connection_created, connection_checked_out])
def test_the_sender_is_the_backends_own_class(signal: Any) -> None:
    backend = load_backend(ENGINES[DRIVER]).DatabaseWrapper
    told: list[Any] = []

    def receiver(sender: Any, **kwargs: Any) -> None:
        told.append(sender)

    connection.close()
    with receiving(signal, receiver, sender=backend):
        request(one)
        request(one)
        assert told == [backend] * (1 if signal is connection_created else 2)
    with receiving(signal, receiver, sender=Forbidden):
        request(one)
    assert len(told) <= 2


def test_of_other_wrappers_it_is_what_django_says() -> None:
    backend = load_backend(ENGINES[DRIVER]).DatabaseWrapper
    told: list[Any] = []

    def receiver(sender: Any, connection: Any, **kwargs: Any) -> None:
        told.append((sender, connection.alias))

    with another_alias(POOL=False) as alias, receiving(connection_created, receiver):
        one(alias)
        assert told == [(backend, alias)]


# -- the session ------------------------------------------------------------------------------------------


def test_what_an_engine_sets_in_each_connection_is_there_for_everybody() -> None:
    with another_alias(ENGINE=SETTING_ENGINE) as alias:
        for _ in range(3):
            assert str(request(lambda: tenant(alias))) == "5"
            request(lambda: sql("SET @mine = 1" if MYSQL else SETTING.replace("5", "6"), using=alias))
        closed = pooling.stats(alias).closed_by_reason
        assert (pooling.stats(alias).resets, closed["unclean"]) == (0, 3)
        # What isn't changed is kept.
        for _ in range(3):
            request(lambda: one(alias))
        assert pooling.stats(alias).opened == 4


def test_what_receivers_set_is_there_for_everybody_and_they_are_told_once() -> None:
    told = []

    def receiver(connection: Any, **kwargs: Any) -> None:
        told.append(1)
        sql(SETTING)

    with receiving(connection_created, receiver):
        for number in range(1, 4):
            for _ in range(2):
                assert str(request(tenant)) == "5"
            assert len(told) == number
            request(change)
        assert pooling.stats("default").idle == 0


@pytest.mark.only("pymysql", "psycopg")
def test_receivers_of_other_backends_and_djangos_own_keep_nothing_from_being_reset() -> None:
    def receiver(**kwargs: Any) -> None:
        raise AssertionError

    def of_django(**kwargs: Any) -> None:
        pass

    of_django.__module__ = "django.contrib.postgres.signals"
    with receiving(connection_created, receiver, Forbidden), receiving(connection_created, of_django):
        before = request(server_id)
        request(change)
        assert request(server_id) == before


def test_where_it_is_wanted_a_changed_session_is_closed() -> None:
    with another_alias(POOL={"RESET": "close"}) as alias:
        for _ in range(2):
            before = request(lambda: server_id(alias))
            assert request(lambda: server_id(alias)) == before
            request(lambda: sql(SETTING, using=alias))
            assert request(lambda: tenant(alias)) is None
        stats = pooling.stats(alias)
        assert (stats.resets, stats.closed_by_reason["unclean"]) == (0, 2)
