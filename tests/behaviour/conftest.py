"""A patched Django on one real database, with an empty pool of 2 to 4 connections for each test."""

from __future__ import annotations

import itertools
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from copy import deepcopy
from functools import partial
from typing import Any
from uuid import uuid4

import django
import pytest

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.behaviour.settings"

django.setup()

from django.db import connection, connections  # noqa: E402
from django.db.utils import load_backend  # noqa: E402

from django_db_pooling import conf, pooling  # noqa: E402
from tests import concurrency  # noqa: E402
from tests.behaviour.models import Note  # noqa: E402
from tests.behaviour.observer import DRIVER, SERVER, Observer  # noqa: E402
from tests.concurrency import PATIENCE, eventually  # noqa: E402
from tests.requests import finish_all_requests, request_started  # noqa: E402
from tests.requests import request as request  # noqa: E402
from tests.requests import request_finished as request_finished  # noqa: E402

GEVENT = bool(os.environ.get("POOLING_GEVENT"))

_numbers = itertools.count(1)


HERE = {DRIVER, SERVER, "gevent" if GEVENT else "threads"}
# Of the family, whichever of the two it is.
MYSQL = DRIVER in ("pymysql", "mysqlclient")
MARIADB = SERVER == "mariadb"
POSTGRESQL = DRIVER in ("psycopg", "psycopg2")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what means nothing with this driver or mode."""
    items[:] = [
        item
        for item in items
        if all(HERE & set(mark.args) for mark in item.iter_markers("only"))
        and not any(set(mark.args) <= HERE for mark in item.iter_markers("never"))
    ]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "only(*where): drivers, mysql or mariadb, gevent or threads: any of them"
    )
    config.addinivalue_line("markers", "transaction_scope: outside of requests, as it is by default")
    config.addinivalue_line("markers", "never(*where): not where all of these come together")


# Whether threads that in_thread() and in_threads() start are each at a request of its own.
_with_requests = [False]


@pytest.fixture(scope="session")
def observer() -> Iterator[Observer]:
    with closing(Observer()) as one:
        yield one


@pytest.fixture(scope="session", autouse=True)
def table() -> Iterator[None]:
    assert not MYSQL or connection.mysql_is_mariadb is MARIADB
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
def fresh_pool(table: None, observer: Observer, request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing open, nothing configured but size 2, at most 4, 5 seconds; afterwards nothing in use.

    The test is a request, unless it is marked as one of transaction scope.
    """
    conf._overrides.clear()
    pooling.patch()
    pooling.set_pool_size(2, max_outstanding=4, timeout=5)
    connections.close_all()
    pooling.close_all()
    eventually(lambda: observer.count() == 0 and pooling.stats("default").in_use == 0)
    _with_requests[0] = request.node.get_closest_marker("transaction_scope") is None
    if _with_requests[0]:
        request_started()
    yield
    abandon_wrappers()
    eventually(lambda: pooling.stats("default").in_use == 0)
    Note.objects.all().delete()
    connections.close_all()


def abandon_wrappers() -> None:
    """Whatever a test has left this thread in, the next one begins anew."""
    finish_all_requests()
    for wrapper in connections.all(initialized_only=True):
        wrapper.in_atomic_block = False
        wrapper.close()
        del connections[wrapper.alias]


def in_thread(function: Callable[[], Any]) -> Any:
    """Run in another thread (under gevent: greenlet) to its end; its result, or its exception."""
    return in_threads([function])[0]


def in_threads(functions: list[Callable[[], Any]]) -> list[Any]:
    """Run all at the same time; their results, or the first one's exception.

    Each is a request where the test is one; it ends with its thread, as one that is killed.
    """

    def at_a_request(function: Callable[[], Any]) -> Any:
        request_started()
        return function()

    if _with_requests[0]:
        functions = [partial(at_a_request, function) for function in functions]
    return concurrency.in_threads(functions)


@contextmanager
def native_threads(most: int = 6) -> Iterator[Any]:
    """A thread pool of gevent's own, whose threads have ended afterwards, with all connections.

    Those of the hub's would stay, and gevent waits for their hubs in the child of each later fork.
    """
    from gevent.threadpool import ThreadPool

    pool = ThreadPool(most)
    try:
        yield pool
    finally:
        pool.kill()
        with warnings.catch_warnings():
            # gevent can't close a socket of a hub that has ended: it is closed when it is collected.
            warnings.simplefilter("ignore", ResourceWarning)
            pooling.close_all()


def sql(statement: str, *params: Any, using: str = "default") -> list[Any]:
    """Run it; its rows."""
    with connections[using].cursor() as cursor:
        cursor.execute(statement, params or None)
        return list(cursor.fetchall()) if cursor.description else []


def one(using: str = "default") -> int:
    """A statement."""
    return int(sql("SELECT 1", using=using)[0][0])


def token(using: str = "default") -> None:
    """A statement whose result can't be another statement's."""
    unique = uuid4().hex
    assert sql("SELECT %s", unique, using=using) == [(unique,)]


def server_id(using: str = "default") -> Any:
    """What tells this physical connection from any other."""
    if MYSQL:
        return sql("SELECT CONNECTION_ID()", using=using)[0][0]
    if POSTGRESQL:
        return sql("SELECT pg_backend_pid()", using=using)[0][0]
    one(using)
    return id(connections[using].connection)


BEGIN = "START TRANSACTION" if MYSQL else "BEGIN"


@contextmanager
def plain(using: str = "default", **changes: Any) -> Iterator[Any]:
    """A wrapper of Django's own, which no pool knows."""
    settings_dict = deepcopy(connections.settings[using]) | changes
    wrapper = load_backend(settings_dict["ENGINE"]).DatabaseWrapper(settings_dict, using)
    try:
        yield wrapper
    finally:
        wrapper.close()


def committed() -> list[str]:
    """The texts of all notes that everybody can see."""
    with plain() as wrapper, wrapper.cursor() as cursor:
        cursor.execute("SELECT text FROM behaviour_note ORDER BY id")
        return [row[0] for row in cursor.fetchall()]


@contextmanager
def another_alias(**changes: Any) -> Iterator[str]:
    """One more alias for the same database, with other settings, and its pool; both gone afterwards."""
    name = f"other{next(_numbers)}"
    connections.settings[name] = deepcopy(connections.settings["default"]) | changes
    try:
        yield name
    finally:
        with suppress(AttributeError):
            wrapper = getattr(connections._connections, name)
            wrapper.in_atomic_block = False
            wrapper.close()
            del connections[name]
        # Nobody can open that, nor make such a file.
        connections.settings[name] |= {"POOL": None, "NAME": "/dev/null/gone"}
        eventually(lambda: pooling.stats(name).in_use == 0)
        pooling.close_all(name)
        del connections.settings[name]


@contextmanager
def held(count: int, using: str = "default") -> Iterator[Callable[[], None]]:
    """So many connections in use by other threads, until the end or a call of what it yields."""
    letting_go = threading.Event()
    holding = threading.Semaphore(0)

    @pooling.scope("request")
    def hold() -> None:
        one(using)
        holding.release()
        letting_go.wait(PATIENCE)

    threads = [threading.Thread(target=hold) for _ in range(count)]

    def let_go() -> None:
        letting_go.set()
        for thread in threads:
            thread.join(PATIENCE)

    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            assert holding.acquire(timeout=PATIENCE)
        yield let_go
    finally:
        let_go()


def assert_whole(using: str = "default") -> None:
    """No slot is lost: as many as allowed can be in use at once, and each answers what it is asked."""
    connections[using].close()
    eventually(lambda: (pooling.stats(using).in_use, pooling.stats(using).opening) == (0, 0))
    assert pooling.stats(using).waiting == 0
    most = pooling.stats(using).max_outstanding
    assert most is not None
    together = threading.Barrier(most)

    def use() -> None:
        token(using)
        together.wait(PATIENCE)
        token(using)

    in_threads([use] * most)
    eventually(lambda: pooling.stats(using).in_use == 0)
    eventually(lambda: pooling.stats(using).idle <= most)
