"""Receivers of request_finished that were connected after patch(): they belong to the request, too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from django.core import signals
from django.test import Client

from django_db_pooling import pooling
from django_db_pooling.process import housekeeper
from tests.behaviour.conftest import (
    assert_whole,
    eventually,
    in_thread,
    one,
    request_finished,
    request_started,
    token,
)
from tests.behaviour.test_rest import change, look

pytestmark = pytest.mark.transaction_scope


@contextmanager
def late_receiver(function: Callable[[], Any]) -> Iterator[None]:
    """As a package for row-level security has one."""

    def receive(**kwargs: Any) -> None:
        function()

    signals.request_finished.connect(receive)
    try:
        yield
    finally:
        signals.request_finished.disconnect(receive)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeper, "TICK", 0.02)


def request() -> None:
    request_started()
    token()
    request_finished()


def is_last() -> bool:
    return bool(signals.request_finished.receivers[-1][0][0] == "django_db_pooling")


def test_what_it_has_changed_is_given_back_when_the_receivers_are_done() -> None:
    with late_receiver(change), ThreadPoolExecutor(4) as executor:
        one()
        eventually(is_last)
        pooling.set_pool_size(2, max_outstanding=2)
        began = time.monotonic()
        for _ in range(10):
            list(executor.map(lambda _: request(), range(4)))
            # No thread has anything, and nobody had to wait until a session has rested for long enough.
            assert pooling.stats("default").in_use == 0
        assert time.monotonic() - began < 5
        assert list(executor.map(lambda _: look(), range(4))) == [None] * 4
    assert_whole()


def test_one_that_comes_after_ours_starves_nobody() -> None:
    """Before the housekeeper has seen it."""
    with ThreadPoolExecutor(4) as executor:
        request()
        with late_receiver(change):
            list(executor.map(lambda _: request(), range(4)))
    assert pooling.stats("default").timeouts == 0
    assert_whole()


def test_the_order_of_the_others_stays() -> None:
    told: list[int] = []
    with late_receiver(lambda: told.append(1)), late_receiver(lambda: told.append(2)):
        in_thread(one)
        eventually(is_last)
        request()
    assert told == [1, 2]


def test_the_test_client_tells_the_end_once() -> None:
    told: list[int] = []
    with late_receiver(lambda: told.append(pooling.stats("default").in_use)):
        in_thread(one)
        eventually(is_last)
        Client().get("/count")
    assert len(told) == 1
    assert_whole()
