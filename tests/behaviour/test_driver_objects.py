"""What somebody told the driver's object is not there for the next one, where it can be known of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, connections, transaction

from django_db_pooling import pooling
from tests.behaviour.conftest import (
    DRIVER,
    another_alias,
    assert_whole,
    one,
    request_finished,
    request_started,
    server_id,
)
from tests.behaviour.models import Note


def of_psycopg() -> list[Callable[[Any], Any]]:
    from psycopg import ClientCursor, IsolationLevel
    from psycopg.rows import dict_row

    def rows(physical: Any) -> None:
        physical.row_factory = dict_row

    def cursors(physical: Any) -> None:
        physical.cursor_factory = type("Cursor", (ClientCursor,), {})

    def read_only(physical: Any) -> None:
        physical.read_only = True

    def isolation(physical: Any) -> None:
        physical.isolation_level = IsolationLevel.SERIALIZABLE

    def prepares(physical: Any) -> None:
        physical.prepare_threshold = 0

    def notices(physical: Any) -> None:
        physical.add_notice_handler(print)

    return [rows, cursors, read_only, isolation, prepares, notices]


def of_psycopg2() -> list[Callable[[Any], Any]]:
    from psycopg2 import extensions, extras

    def cursors(physical: Any) -> None:
        physical.cursor_factory = extras.RealDictCursor

    def read_only(physical: Any) -> None:
        physical.set_session(readonly=True)

    def isolation(physical: Any) -> None:
        physical.isolation_level = extensions.ISOLATION_LEVEL_SERIALIZABLE

    def types(physical: Any) -> None:
        extensions.register_type(extensions.new_type((23,), "mine", lambda value, cursor: "mine"), physical)

    return [cursors, read_only, isolation, types]


def of_mysql() -> list[Callable[[Any], Any]]:
    from django.db.backends.mysql.base import Database

    def cursors(physical: Any) -> None:
        physical.cursorclass = Database.cursors.DictCursor

    def decoders(physical: Any) -> None:
        # Of PyMySQL, of mysqlclient.
        getattr(physical, "decoders", getattr(physical, "converter", None))[3] = lambda value: "mine"

    def encoders(physical: Any) -> None:
        physical.encoders[str] = lambda value, *mapping: "'mine'"

    return [cursors, decoders, encoders]


def of_sqlite() -> list[Callable[[Any], Any]]:
    import sqlite3

    def rows(physical: Any) -> None:
        physical.row_factory = sqlite3.Row

    def text(physical: Any) -> None:
        physical.text_factory = bytes

    return [rows, text]


CHANGES = {
    "psycopg": of_psycopg,
    "psycopg2": of_psycopg2,
    "pymysql": of_mysql,
    "mysqlclient": of_mysql,
    "sqlite3": of_sqlite,
}[DRIVER]()
changes = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)


def as_new(using: str = "default") -> bool:
    """A request whose rows, types and transactions are Django's."""
    request_started()
    try:
        with transaction.atomic(using):
            note = Note.objects.using(using).create(text="a")
            assert list(Note.objects.using(using).filter(pk=note.pk).values_list("text")) == [("a",)]
            assert one(using) == 1
            transaction.set_rollback(True, using)
            slot = connections[using].slot  # type: ignore[attr-defined]
            return bool(slot.settings == slot.pool.driver.settings(slot.connection))
    finally:
        request_finished()


@changes
def test_with_a_pin_it_is_gone_afterwards(change: Callable[[Any], Any]) -> None:
    request_started()
    pooling.pin()
    change(connection.connection)
    request_finished()
    assert as_new()
    assert_whole()


@changes
def test_with_a_connection_that_was_asked_for_it_is_gone_afterwards(change: Callable[[Any], Any]) -> None:
    with another_alias(POOL={"SCOPE": "transaction"}) as alias:
        request_started()
        connections[alias].ensure_connection()
        change(connections[alias].connection)
        request_finished()
        assert as_new(alias)
        assert_whole(alias)


@changes
def test_where_each_session_is_reset_it_is_gone_afterwards(change: Callable[[Any], Any]) -> None:
    with another_alias(POOL={"RESET": "always"}) as alias:
        request_started()
        one(alias)
        change(connections[alias].connection)
        request_finished()
        assert as_new(alias)


@pytest.mark.only("pymysql", "psycopg")
def test_a_driver_s_object_that_is_as_it_was_is_kept() -> None:
    request_started()
    pooling.pin()
    before = server_id()
    request_finished()
    assert as_new()
    request_started()
    assert server_id() == before
    request_finished()


def test_who_asked_for_a_connection_and_changed_nothing_leaves_it_to_the_next_one() -> None:
    with another_alias(POOL={"SCOPE": "transaction"}) as alias:
        request_started()
        connections[alias].ensure_connection()
        one(alias)
        request_finished()
        assert as_new(alias)
        assert pooling.stats(alias).opened == 1


@pytest.mark.parametrize("pool", [{"SCOPE": "transaction"}, {"RESET": "always"}], ids=str)
def test_one_that_was_closed_is_replaced(pool: dict[str, Any]) -> None:
    with another_alias(POOL=pool) as alias:
        request_started()
        connections[alias].ensure_connection()
        one(alias)
        connections[alias].connection.close()
        request_finished()
        assert pooling.stats(alias).in_use == 0
        assert as_new(alias)
        assert_whole(alias)
