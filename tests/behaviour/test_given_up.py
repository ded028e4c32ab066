"""A statement that is given up is ended at the server, too, and its place counts until then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from django.db import connections, transaction

from django_db_pooling import pooling
from tests.behaviour.conftest import (
    MYSQL,
    PATIENCE,
    assert_whole,
    in_threads,
    one,
    plain,
    request_finished,
    request_started,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import Observer

pytestmark = pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2")
# Those whose users can be interrupted while they wait for the server.
interruptible = pytest.mark.only("pymysql", "psycopg")

SLEEPING = "SELECT SLEEP(20)" if MYSQL else "SELECT pg_sleep(20)"
HELPERS = (
    "SELECT COUNT(*) FROM information_schema.processlist "
    "WHERE db IS NULL AND id <> CONNECTION_ID() AND user = SUBSTRING_INDEX(USER(), '@', 1)"
)


class Watch:
    """The most sessions that the server had at once in the test database, and of our user elsewhere: those
    through which others are ended.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._over = threading.Event()
        self.most = self.helpers = 0

    def _run(self) -> None:
        while not self._over.wait(0.003):
            self.most = max(self.most, self._observer.count())
            if MYSQL:
                self.helpers = max(self.helpers, self._observer.rows(HELPERS)[0][0])

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._over.set()
        self._thread.join(PATIENCE)


def soon(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not true after {seconds} s"
        time.sleep(0.01)


@contextmanager
def locked(note: Note) -> Iterator[None]:
    """A row that somebody else has locked."""
    with plain() as wrapper, transaction_of(wrapper), wrapper.cursor() as cursor:
        cursor.execute("UPDATE behaviour_note SET text = 'theirs' WHERE id = %s", [note.pk])
        yield


@contextmanager
def transaction_of(wrapper: Any) -> Iterator[None]:
    wrapper.set_autocommit(False)
    try:
        yield
    finally:
        wrapper.rollback()


def ending() -> int:
    return pooling.stats("default").ending


def abandoned() -> int:
    return pooling.stats("default").abandoned


@interruptible
@pytest.mark.only("gevent")
def test_fifty_timeouts_on_a_locked_row_leave_no_session_over_the_limit(observer: Observer) -> None:
    import gevent

    pooling.set_pool_size(5, max_outstanding=5, timeout=PATIENCE)
    note = Note.objects.create(text="ours")
    connections["default"].close()
    before = abandoned()
    served = []

    def client() -> None:
        for _ in range(10):
            request_started()
            with suppress(gevent.Timeout), gevent.Timeout(0.5), transaction.atomic():
                Note.objects.filter(pk=note.pk).update(text="never")
            # Another request.
            request_started()
            served.append(one())
            request_finished()

    # And the one that has locked the row.
    with locked(note), Watch(observer) as watch:
        in_threads([client] * 5)
    assert len(served) == 50
    # One more: that which has locked the row. PostgreSQL's cancel requests are no sessions.
    assert (watch.most, watch.helpers) <= (5 + 1, 1)
    assert watch.helpers <= 1
    assert abandoned() - before == 50
    pooling.close_all()
    soon(lambda: observer.count() == 0, seconds=2)
    assert (pooling.stats("default").in_use, ending()) == (0, 0)
    note.refresh_from_db()
    assert note.text == "ours"
    assert_whole()
