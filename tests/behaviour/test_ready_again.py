"""Readiness where connecting fails: while good connections are there, without a retry, for some aliases."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import Error, OperationalError, connections
from django.test import RequestFactory
from django.utils.connection import ConnectionDoesNotExist

from django_db_pooling import pooling
from django_db_pooling.dashboard.readiness import ready, ready_for
from django_db_pooling.process import housekeeper
from django_db_pooling.registry import registry
from tests.behaviour.conftest import another_alias, eventually, in_thread, token

NO_CONNECTION = 503, {"ready": False, "reasons": ["no connection"]}
PAUSED = 503, {"ready": False, "reasons": ["paused"]}
READY = 200, {"ready": True, "reasons": []}


@pytest.fixture(autouse=True)
def quick_housekeeper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeper, "TICK", 0.05)


def told(view: Callable[..., Any] = ready) -> tuple[int, Any]:
    response = view(RequestFactory().get("/ready/"))
    return response.status_code, json.loads(response.content)


def test_it_is_while_others_have_good_connections_and_looks_again_when_they_are_suspect() -> None:
    """Attempts to open a second one have found no server, for example since its name wasn't found."""
    with another_alias() as alias:
        in_thread(lambda: token(alias))
        pool = registry.pools(alias)[0]
        assert pool.current is not None
        eventually(lambda: pooling.stats(alias).idle == 1)
        affinity, opened = pool.current.affinity(), pooling.stats(alias).opened
        pool.retry_in(OperationalError("no address"), time.monotonic() - 60, None, affinity)
        assert pool.growth.of(affinity).outage
        assert told() == READY
        pool.suspect_all()
        assert told() == NO_CONNECTION
        eventually(lambda: told() == READY)
        assert pooling.stats(alias).opened == opened + 1


def test_it_is_not_when_the_first_attempt_fails_and_nobody_tries_again(tmp_path: Path) -> None:
    wrong = tmp_path / "later" / "database" if connections["default"].vendor == "sqlite" else "nowhere"
    with another_alias(NAME=str(wrong), POOL={"CONNECT_RETRY": 0}) as alias:
        assert told() == READY
        with pytest.raises(Error):
            in_thread(lambda: token(alias))
        assert told() == NO_CONNECTION
        time.sleep(0.3)
        assert told() == NO_CONNECTION
        if isinstance(wrong, Path):
            # No request comes meanwhile.
            wrong.parent.mkdir()
            eventually(lambda: told() == READY)
            eventually(lambda: pooling.stats(alias).idle == 1)


def test_one_that_speaks_for_some_aliases() -> None:
    with another_alias() as alias:
        pooling.pause(alias, 30)
        assert told() == told(ready_for(alias)) == told(ready_for("default", alias)) == PAUSED
        assert told(ready_for("default")) == READY


def test_of_an_unknown_one_it_can_not_speak() -> None:
    with pytest.raises(ConnectionDoesNotExist, match="The connection 'nowhere' doesn't exist"):
        ready_for("default", "nowhere")


def test_no_alias_has_it_in_a_transaction() -> None:
    """ATOMIC_REQUESTS would connect first."""
    with another_alias() as alias:
        for view in (ready, ready_for("default")):
            excepted: Any = view
            assert alias in excepted._non_atomic_requests and "default" in excepted._non_atomic_requests
            assert excepted.login_required is False
