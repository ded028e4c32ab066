"""A connection outside of the pool: who gets it, and what is left afterwards, however it ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client, override_settings

from django_db_pooling import conf, pooling
from django_db_pooling.dashboard import outside
from django_db_pooling.dashboard.outside import BUSY, NO_CONNECTION, PAUSED, Unavailable
from django_db_pooling.signals import connection_checked_out
from tests.concurrency import PATIENCE, in_child


@pytest.fixture(autouse=True)
def none_is_free(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another thread has the only connection."""
    monkeypatch.setattr(conf, "_overrides", {})
    connections["default"].close()
    pooling.close_all("default", timeout=PATIENCE)
    pooling.set_pool_size(1, max_outstanding=1, alias="default")
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with pooling.scope("request"):
            connections["default"].ensure_connection()
            held.set()
            over.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(PATIENCE)
    try:
        yield
    finally:
        over.set()
        thread.join(PATIENCE)


def boss() -> str:
    return User.objects.get(username="boss").username


def nothing_is_left() -> bool:
    figures = pooling.stats("default")
    return not outside._turns and (figures.in_use, figures.idle, figures.waiting) == (1, 0, 0)


def test_one_question_is_answered_and_its_connection_closed() -> None:
    pooled: Any = connections["default"]
    seen: list[Any] = []

    def question() -> str:
        seen.append(connections["default"])
        assert pooling.stats("default").in_use == 1
        return boss()

    assert outside.ask("default", question) == "boss"
    assert seen[0] is not pooled and seen[0].connection is None
    assert connections["default"] is pooled and nothing_is_left()


def test_receivers_of_a_checkout_hear_of_it() -> None:
    heard = []

    def set_role(connection: Any, **kwargs: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA cache_size = 77")
        heard.append(connection)

    def question() -> int:
        with connections["default"].cursor() as cursor:
            return int(cursor.execute("PRAGMA cache_size").fetchone()[0])

    connection_checked_out.connect(set_role)
    try:
        assert outside.ask("default", question) == 77
    finally:
        connection_checked_out.disconnect(set_role)
    assert len(heard) == 1 and nothing_is_left()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_whatever_ends_the_question_leaves_nothing(error: type[BaseException]) -> None:
    pooled: Any = connections["default"]

    def question() -> None:
        boss()
        raise error

    with pytest.raises(error):
        outside.ask("default", question)
    assert connections["default"] is pooled and nothing_is_left()


def test_only_one_is_asked_at_a_time() -> None:
    def question() -> str:
        # Neither within the first one, nor beside it.
        with pytest.raises(Unavailable, match=BUSY):
            outside.ask("default", boss)
        raised: list[BaseException] = []

        def beside() -> None:
            try:
                outside.ask("default", boss)
            except Unavailable as error:
                raised.append(error)

        thread = threading.Thread(target=beside)
        thread.start()
        thread.join(PATIENCE)
        assert [str(error) for error in raised] == [BUSY]
        # A child that is forked now waits for nobody.
        assert in_child(lambda: not outside._turns.get(os.getpid())) is True
        return boss()

    assert outside.ask("default", question) == "boss"
    assert nothing_is_left()


def test_a_server_that_gives_none_is_not_named_to_visitors() -> None:
    wrapper: Any = connections["default"]
    name, wrapper.settings_dict["NAME"] = wrapper.settings_dict["NAME"], "/nowhere/secret.sqlite3"
    try:
        with pytest.raises(Unavailable) as raised:
            outside.ask("default", boss)
    finally:
        wrapper.settings_dict["NAME"] = name
    assert str(raised.value) == NO_CONNECTION
    assert connections["default"] is wrapper and nothing_is_left()


def test_not_in_a_pause() -> None:
    pooling.pause("default", 30)
    try:
        with pytest.raises(Unavailable, match=PAUSED):
            outside.ask("default", boss)
    finally:
        pooling.resume("default")
    assert nothing_is_left()


def test_who_is_not_known_yet_gets_a_page_that_tries_again() -> None:
    client = Client()
    client.cookies["sessionid"] = "x" * 32

    def question() -> Any:
        return client.get("/pools/")

    with override_settings(ROOT_URLCONF="tests.page.urls_everywhere"):
        # While somebody else is asked for.
        response = outside.ask("default", lambda: in_a_thread(question))
    assert response.status_code == 503 and response["Retry-After"] == "5"
    html = response.content.decode()
    assert BUSY in html and "python manage.py db_pools" in html
    assert '<meta http-equiv="refresh" content="5; url=/pools/">' in html


def in_a_thread(function: Any) -> Any:
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join(PATIENCE)
    return results[0]
