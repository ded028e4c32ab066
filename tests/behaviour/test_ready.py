"""What an orchestrator is told: whether requests had better go elsewhere."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from django.db import OperationalError, connections
from django.test import RequestFactory

from django_db_pooling import pooling
from django_db_pooling.dashboard.readiness import ready
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.process import housekeeper
from tests.behaviour.conftest import another_alias, eventually, in_thread, in_threads, token
from tests.behaviour.observer import Observer
from tests.behaviour.test_death import proxied, through_proxy  # noqa: F401
from tests.behaviour.test_outage import (
    away,  # noqa: F401
    growth,
)
from tests.proxy import TcpProxy


def told(method: str = "GET") -> tuple[int, Any]:
    response = ready(RequestFactory().generic(method, "/ready/"))
    assert "no-store" in response["Cache-Control"]
    return response.status_code, json.loads(response.content)


def test_it_is_ready_without_a_connection(observer: Observer) -> None:
    before = pooling.stats("default").checkouts
    assert told() == told("HEAD") == (200, {"ready": True, "reasons": []})
    assert (pooling.stats("default").checkouts, observer.count()) == (before, 0)


def test_it_only_reads() -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert ready(RequestFactory().generic(method, "/ready/")).status_code == 405


def test_it_needs_neither_login_nor_transaction() -> None:
    view: Any = ready
    assert view.login_required is False
    assert "default" in view._non_atomic_requests


def test_it_is_not_while_it_is_paused() -> None:
    pooling.pause("default", 30)
    assert told() == (503, {"ready": False, "reasons": ["paused"]})
    pooling.resume("default")
    assert told()[0] == 200


def test_a_pause_of_what_is_not_there_or_not_pooled_is_no_reason() -> None:
    with another_alias() as alias:
        pooling.pause(alias, 30)
        assert told()[0] == 503
    assert told()[0] == 200
    with another_alias(POOL=False) as alias:
        pooling.pause(alias, 30)
        assert told()[0] == 200


def test_nor_while_it_sheds() -> None:
    with another_alias(POOL={"WAIT_TARGET": 0.1}) as alias:
        pooling.set_pool_size(1, max_outstanding=1, timeout=10, alias=alias)
        seen: list[Any] = []

        def visits() -> None:
            while not seen:
                with suppress(PoolTimeout):
                    token(alias)
                    time.sleep(0.1)
                connections[alias].close()

        def looks() -> None:
            eventually(lambda: told() == (503, {"ready": False, "reasons": ["overloaded"]}))
            seen.append(True)

        in_threads([looks, *[visits] * 8])
        assert pooling.stats(alias).waiting == 0
        assert told()[0] == 200


@pytest.mark.never("sqlite3")
@through_proxy
@pytest.mark.parametrize("away", [0.3], indirect=True)
def test_nor_while_no_connection_can_be_opened_and_it_finds_out_itself_that_one_can(
    away: tuple[str, TcpProxy],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(housekeeper, "TICK", 0.05)
    alias, proxy = away
    connections[alias].close()
    with pytest.raises(OperationalError):
        in_thread(lambda: token(alias))
    eventually(lambda: growth(alias).outage)
    assert told() == (503, {"ready": False, "reasons": ["no connection"]})
    # No request comes meanwhile.
    time.sleep(0.5)
    assert told()[0] == 503
    proxy.resume()
    eventually(lambda: told()[0] == 200)
    eventually(lambda: pooling.stats(alias).idle == 1)
