"""More is asked for than there is: answers that say so, and who is to blame."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.asgi import get_asgi_application
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings

from django_db_pooling import pooling
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.middleware import PoolTimeoutMiddleware
from tests.behaviour.conftest import PATIENCE, another_alias, eventually, held, in_thread, in_threads, one

MIDDLEWARE = "django_db_pooling.middleware.PoolTimeoutMiddleware"


class Later(PoolTimeoutMiddleware):
    """As a project would change it."""

    retry_after = 77


def querying(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """A middleware that queries for each request, as one for sessions does."""

    def middleware(request: HttpRequest) -> HttpResponse:
        one()
        return get_response(request)

    return middleware


@pytest.mark.parametrize("path", ["/count", "/add?text=x"])
def test_a_view_that_gets_no_connection_answers_503(path: str) -> None:
    pooling.set_pool_size(2, max_outstanding=2, timeout=0.05)
    with override_settings(MIDDLEWARE=[MIDDLEWARE]):
        with held(2):
            response = Client().get(path)
            assert (response.status_code, response["Retry-After"]) == (503, "5")
        assert Client().get(path).status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/count"])
def test_so_does_a_middleware_further_in(path: str) -> None:
    pooling.set_pool_size(2, max_outstanding=2, timeout=0.05)
    with override_settings(MIDDLEWARE=[f"{__name__}.Later", f"{__name__}.querying"]):
        client = Client(raise_request_exception=False)
        with held(2):
            response = client.get(path)
            assert (response.status_code, response["Retry-After"]) == (503, "77")
        assert client.get(path).status_code == 200


def test_other_errors_are_none_of_its_business() -> None:
    with override_settings(MIDDLEWARE=[MIDDLEWARE]):
        # Without its argument.
        assert Client(raise_request_exception=False).get("/add").status_code == 500


async def answer(path: str) -> dict[str, Any]:
    """How Django answers under ASGI: the beginning of that."""
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
    communicator = ApplicationCommunicator(get_asgi_application(), scope)
    await communicator.send_input({"type": "http.request", "body": b""})
    start: dict[str, Any] = await communicator.receive_output(PATIENCE)
    await communicator.wait(PATIENCE)
    return start


# asgiref's threads and gevent's greenlets don't know each other.
@pytest.mark.only("threads")
@pytest.mark.transaction_scope
def test_under_asgi_too() -> None:
    pooling.set_pool_size(2, max_outstanding=2, timeout=0.05)
    with override_settings(MIDDLEWARE=[MIDDLEWARE]):
        with held(2):
            start = in_thread(lambda: asyncio.run(answer("/count")))
            assert start["status"] == 503
            assert (b"Retry-After", b"5") in start["headers"]
        assert in_thread(lambda: asyncio.run(answer("/count")))["status"] == 200


def test_beyond_max_waiting_nobody_queues() -> None:
    with another_alias(POOL={"MAX_WAITING": 2}) as alias:
        pooling.set_pool_size(1, max_outstanding=1, timeout=30, alias=alias)
        with held(1, alias) as let_go:
            refused: list[PoolTimeout] = []

            def ask() -> None:
                try:
                    one(alias)
                except PoolTimeout as error:
                    refused.append(error)

            def third() -> None:
                eventually(lambda: pooling.stats(alias).waiting == 2)
                with pytest.raises(PoolTimeout, match=r"MAX_WAITING \(2\)") as caught:
                    one(alias)
                assert caught.value.waited == 0
                let_go()

            in_threads([ask, ask, third])
        assert not refused


# -- connections that are held too long ----------------------------------------------------------------


def test_a_connection_held_for_long_is_told_of_once_with_its_line_and_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "django_db_pooling")

    def said(words: str) -> list[str]:
        return [message for message in caplog.messages if words in message]

    with another_alias(POOL={"LEAK_THRESHOLD": 0.1}) as alias:
        with held(1, alias):
            eventually(lambda: said(f"{alias}: connection held for"))
            [warning] = said(f"{alias}: connection held for")
            assert re.search(r"conftest\.py:\d+$", warning), warning
            with pytest.raises(OperationalError, match=r"Held longest: .* taken at .*conftest\.py:\d+"):
                pooling.set_pool_size(1, max_outstanding=1, timeout=0, alias=alias)
                one(alias)
            assert not said("came back")
        eventually(lambda: said(f"{alias}: connection returned after"))
        [back] = said(f"{alias}: connection returned after")
        assert warning.rpartition(" by ")[2] in back
        assert len(said(f"{alias}: connection held for")) == 1


def test_without_a_threshold_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "django_db_pooling")
    with another_alias(POOL={"LEAK_THRESHOLD": 0.1}) as watched, another_alias() as alias:
        with held(1, watched), held(1, alias):
            eventually(lambda: any(watched in message for message in caplog.messages))
        assert not any(f"{alias}: " in message for message in caplog.messages)
