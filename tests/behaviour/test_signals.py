"""A signal's handler raises anywhere in this package: nothing is lost, no lock stays taken."""

from __future__ import annotations

import gc
import itertools
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from django.db import DatabaseError, connections, transaction

from django_db_pooling import drivers, pooling
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    PATIENCE,
    another_alias,
    assert_whole,
    committed,
    eventually,
    request_finished,
    request_started,
    token,
)
from tests.behaviour.models import Note
from tests.strikes import Strikes, Struck
from tests.unit.fakes import interrupted_at

# What gevent's hub is at when a signal comes is nobody's request.
pytestmark = pytest.mark.only("threads")
SECONDS = 1.5
LEAST_POINTS = 15


def pair(text: str) -> None:
    with transaction.atomic():
        Note.objects.create(text=text)
        token()
        Note.objects.create(text=text)


def test_a_request_that_is_struck_anywhere_is_all_or_nothing() -> None:
    """The others wait for the same connections, and go on."""
    pooling.set_pool_size(1, max_outstanding=2)
    strikes, over = Strikes(), threading.Event()
    numbers = itertools.count()
    written: list[str] = []

    def go_on(within: float | None = None) -> None:
        text = str(next(numbers))
        request_started()
        try:
            if within is None:
                pair(text)
            else:
                with strikes.within(within):
                    pair(text)
            written.append(text)
        finally:
            request_finished()

    def others() -> None:
        while not over.is_set():
            go_on()

    threads = [threading.Thread(target=others, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            before = strikes.hits.total()
            try:
                go_on(0.01 * random.random() ** 3)
            except (Struck, DatabaseError):
                # Where atomic() is struck before its COMMIT Django can't set autocommit again.
                assert strikes.hits.total() > before
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "somebody waits for ever"
    gc.collect()
    texts = committed()
    assert all(texts.count(text) == 2 for text in set(texts))
    assert set(written) <= set(texts)
    assert len(strikes.hits) >= LEAST_POINTS, strikes
    eventually(lambda: pooling.stats("default").in_use == 0)
    assert_whole()


@pytest.mark.transaction_scope
@pytest.mark.only("sqlite3")
# A strike in a finalizer.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("work", [token, lambda: pair("a"), lambda: connections["default"].is_usable()])
def test_a_method_that_was_struck_anywhere_does_not_count_as_running(work: Callable[[], object]) -> None:
    """Else nothing would be given back any more before the thread ends."""
    for point in itertools.count():
        wrapper = connections["default"]
        struck = True
        with suppress(DatabaseError):
            # Where atomic() can't set autocommit again.
            struck = interrupted_at(point, "/django_db_pooling/", work)
        assert wrapper._depth == 0, point
        wrapper.in_atomic_block = False
        connections.close_all()
        if not struck:
            break
    assert point > 20
    # A connection that was being opened when the strike came, in the frames of that.
    gc.collect()


def test_no_lock_stays_taken_when_finding_a_pool_is_struck() -> None:
    """Of an alias whose settings change all the time."""
    strikes = Strikes(enough=math.inf)
    with another_alias() as alias:
        wrapper = connections[alias]
        driver = drivers.find(wrapper.Database)
        assert driver is not None
        end = time.monotonic() + SECONDS
        for number in itertools.count():
            with suppress(Struck), strikes.within(0.001 * random.random()):
                for change in range(10):
                    wrapper.settings_dict["HOST"] = f"{number} {change}"
                    registry.identity_of(wrapper, driver)
                for pool in registry.pools(alias):
                    pool.closing = True
                registry._forget_ended()
            for lock in (registry._lock, *(pool._lock for pool in registry.pools(alias))):
                assert lock.acquire(timeout=PATIENCE), f"a lock stays taken, after {strikes}"
                lock.release()
            if time.monotonic() > end:
                break
        wrapper.settings_dict["HOST"] = connections.settings["default"]["HOST"]
        token(alias)


def never_commit() -> None:
    """In Python 3.13 the signal strikes at the jump back of the loop, and atomic() isn't told of its end."""
    go_on = [True]
    with transaction.atomic():
        Note.objects.create(text="never")
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        while go_on and go_on[0]:
            pass


@pytest.fixture
def alarms() -> Iterator[None]:
    def strike(*_: object) -> None:
        raise Struck

    before = signal.signal(signal.SIGALRM, strike)
    yield
    signal.signal(signal.SIGALRM, before)


def test_a_transaction_whose_end_is_skipped_ends_with_the_request(alarms: None) -> None:
    for _ in range(5):
        request_started()
        with suppress(Struck):
            never_commit()
        request_finished()
        assert pooling.stats("default").in_use == 0
        pair("after")
        connections["default"].close()
    assert committed() == ["after"] * 10


@pytest.mark.transaction_scope
def test_a_transaction_whose_end_is_skipped_ends_with_the_scope_that_its_function_has(alarms: None) -> None:
    for _ in range(5):
        with suppress(Struck):
            pooling.scope()(never_commit)()
        assert pooling.stats("default").in_use == 0
        pair("after")
    assert committed() == ["after"] * 10
