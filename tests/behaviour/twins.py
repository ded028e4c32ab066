"""Two worlds in which the same is done: a pooled alias, and Django's own wrapper, each with its own table.

A witness for each of them, a connection that nobody else uses, sees what is committed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.db import Error, connection, connections, models
from django.db.utils import load_backend

from django_db_pooling import pooling
from django_db_pooling.registry import registry
from tests.behaviour.conftest import DRIVER, MYSQL, another_alias, eventually, plain
from tests.behaviour.observer import Observer

TABLE = "behaviour_entry"


class Entry(models.Model):
    number = models.IntegerField(unique=True)
    text = models.CharField(max_length=20)

    class Meta:
        app_label = "behaviour"
        # No other test is to create its table.
        apps = models.options.Options.default_apps.__class__()
        db_table = TABLE


# "returns" and what, or "raises" and which class.
Outcome = tuple[str, Any]


def outcome(call: Callable[[], Any]) -> Outcome:
    """Errors of the database refer to themselves, and to open cursors: none of them is left."""
    try:
        return "returns", call()
    except Exception as error:
        kind = type(error)
    gc.collect()
    return "raises", kind


def failed(found: Outcome) -> bool:
    """Whether it is an error of the database. Django doesn't translate all that drivers raise."""
    return found[0] == "raises" and issubclass(found[1], (Error, connection.Database.Error))


class World:
    """An alias, and what the code under test has left there."""

    def __init__(self, alias: str, witness: Any) -> None:
        self.alias = alias
        self._witness = witness
        # What on_commit hooks have seen.
        self.log: list[Any] = []
        # Identifiers of savepoints that were made by hand.
        self.savepoints: list[Any] = []

    @property
    def wrapper(self) -> Any:
        return connections[self.alias]

    @property
    def entries(self) -> Any:
        return Entry.objects.using(self.alias)

    def rows(self) -> list[Any]:
        return list(self.entries.order_by("number").values_list("number", "text"))

    def committed(self) -> list[Any]:
        """What everybody can see."""
        with self._witness.cursor() as cursor:
            cursor.execute(f"SELECT number, text FROM {TABLE} ORDER BY number")
            return [tuple(row) for row in cursor.fetchall()]

    def forget(self) -> None:
        """As if nothing had been done."""
        if hasattr(self.wrapper, "give_back"):
            self.wrapper.give_back()
        else:
            self.wrapper.in_atomic_block = False
            with suppress(Error):
                self.wrapper.close()
        renewed = type(self.wrapper)(connections.settings[self.alias], self.alias)
        connections[self.alias] = renewed
        self.log, self.savepoints = [], []
        with self._witness.cursor() as cursor:
            cursor.execute(f"DELETE FROM {TABLE}")


class Stage:
    """Both worlds, and the server under them."""

    def __init__(self, pooled: World, model: World, observer: Observer, databases: list[str]) -> None:
        self.pooled, self.model = pooled, model
        self._observer, self._databases = observer, databases
        self._witnesses = self._ids()

    def _ids(self) -> set[int]:
        found: set[int] = set()
        mine = self._observer.name
        for name in self._databases:
            self._observer.name = name
            found |= set(self._observer.ids())
        self._observer.name = mine
        return found

    def kill(self) -> None:
        """All connections of both worlds, idle or in use, but for the witnesses'."""
        killed = self._ids() - self._witnesses
        for number in killed:
            with suppress(Exception):
                self._observer.rows(f"KILL {number}" if MYSQL else f"SELECT pg_terminate_backend({number})")
        eventually(lambda: not killed & self._ids())
        # The server forgets its end before it closes that.
        eventually(lambda: not any(map(self._is_open, registry.pools(self.pooled.alias))))

    def _is_open(self, pool: Any) -> bool:
        return any(pool.driver.alive(connection) is not False for connection in pool.connections())

    def nothing_is_in_use(self) -> bool:
        return pooling.stats(self.pooled.alias).in_use == 0


def _create_database(wrapper: Any, name: str) -> None:
    _drop_database(wrapper, name)
    if DRIVER != "sqlite3":
        with wrapper._nodb_cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {wrapper.ops.quote_name(name)}")


def _drop_database(wrapper: Any, name: str) -> None:
    if DRIVER == "sqlite3":
        Path(name).unlink(missing_ok=True)
    else:
        with wrapper._nodb_cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {wrapper.ops.quote_name(name)}")


def _create_table(wrapper: Any) -> None:
    with wrapper.schema_editor() as editor:
        if TABLE in wrapper.introspection.table_names():
            editor.delete_model(Entry)
        editor.create_model(Entry)


@contextmanager
def stage(observer: Observer) -> Iterator[Stage]:
    """A second database for the model, so that neither world sees the other."""
    name = connections.settings["default"]["NAME"]
    other = f"{name}_model"
    # Nobody can wait for a lock that the same thread holds.
    options = {"OPTIONS": {"timeout": 0.2}} if DRIVER == "sqlite3" else {}
    with plain(**options) as witness:
        _create_database(witness, other)
        try:
            with (
                plain(NAME=other, **options) as model_witness,
                another_alias(**options) as pooled,
                another_alias(POOL=False, NAME=other, **options) as model,
            ):
                _create_table(witness)
                _create_table(model_witness)
                settings = connections.settings[model]
                # Of a class that no pool has touched.
                connections[model] = load_backend(settings["ENGINE"]).DatabaseWrapper(settings, model)
                connections["default"].close()
                pooling.close_all()
                eventually(lambda: observer.count() == 1)
                yield Stage(World(pooled, witness), World(model, model_witness), observer, [name, other])
        finally:
            with witness.schema_editor() as editor:
                editor.delete_model(Entry)
            witness.close()
            _drop_database(witness, other)
