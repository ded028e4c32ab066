"""A patched Django on one real database, with an empty pool of 2 to 4 connections for each test."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import django
import pytest

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.behaviour.settings"

django.setup()

from django.core import signals  # noqa: E402
from django.db import connection, connections  # noqa: E402

from django_db_pooling import conf, pooling  # noqa: E402
from tests.behaviour.models import Note  # noqa: E402
from tests.behaviour.observer import DRIVER, Observer  # noqa: E402

GEVENT = bool(os.environ.get("POOLING_GEVENT"))
PATIENCE = 20.0  # seconds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """@pytest.mark.only(...) names drivers, "gevent" or "threads": elsewhere the test means nothing."""
    kept = []
    for item in items:
        mark = item.get_closest_marker("only")
        here = {DRIVER, "gevent" if GEVENT else "threads"}
        if mark is None or here & set(mark.args):
            kept.append(item)
    items[:] = kept


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "only(*where): drivers, or gevent or threads, that this is about")


@pytest.fixture(scope="session")
def observer() -> Iterator[Observer]:
    with closing(Observer()) as one:
        yield one


@pytest.fixture(scope="session", autouse=True)
def table() -> Iterator[None]:
    if Note._meta.db_table in connection.introspection.table_names():
        with connection.schema_editor() as editor:
            editor.delete_model(Note)
    with connection.schema_editor() as editor:
        editor.create_model(Note)
    connection.close()
    yield
    connection.close()
    pooling.close_all()


@pytest.fixture(autouse=True)
def fresh_pool(table: None, observer: Observer) -> Iterator[None]:
    """Nothing open, nothing configured but size 2, at most 4, 5 seconds; afterwards nothing in use."""
    conf._overrides.clear()
    pooling.patch()
    pooling.set_pool_size(2, max_outstanding=4, timeout=5)
    connections.close_all()
    pooling.close_all()
    eventually(lambda: observer.count() == 0)
    yield
    connections.close_all()
    eventually(lambda: pooling.stats("default").in_use == 0)
    Note.objects.all().delete()
    connections.close_all()


def eventually(condition: Callable[[], Any]) -> None:
    """Wait until it is true; fail when that takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"still not true after {PATIENCE} s: {condition}"
        time.sleep(0.01)


def in_thread(function: Callable[[], Any]) -> Any:
    """Run in another thread (under gevent: greenlet) to its end; its result, or its exception."""
    return in_threads([function])[0]


def in_threads(functions: list[Callable[[], Any]]) -> list[Any]:
    """Run all at the same time; their results, or the first one's exception."""
    results: list[Any] = [None] * len(functions)
    errors: list[BaseException] = []

    def run(number: int, function: Callable[[], Any]) -> None:
        try:
            results[number] = function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=item) for item in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE * 2)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]
    return results


def one() -> int:
    """A statement."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return int(cursor.fetchone()[0])


def server_id() -> Any:
    """What tells this physical connection from any other."""
    with connection.cursor() as cursor:
        if connection.vendor == "mysql":
            cursor.execute("SELECT CONNECTION_ID()")
        elif connection.vendor == "postgresql":
            cursor.execute("SELECT pg_backend_pid()")
        else:
            return id(connection.connection)
        return cursor.fetchone()[0]


def request_started() -> None:
    signals.request_started.send(sender=None, environ={"REQUEST_METHOD": "GET", "PATH_INFO": "/test"})


def request_finished() -> None:
    signals.request_finished.send(sender=None)
