"""W005 counts what a process serves at once, where its web server says so."""

from __future__ import annotations

import pytest
from django.db import connections

from django_db_pooling import conf
from django_db_pooling.process import concurrency
from tests.behaviour.test_checks import asked, limit, servers, short


@pytest.fixture(autouse=True)
def of_twenty(monkeypatch: pytest.MonkeyPatch) -> None:
    conf._overrides.clear()
    for name in concurrency._WORKERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(connections.settings["default"], "POOL", {"SIZE": 10, "MAX_OUTSTANDING": 20})


@servers
def test_a_sync_worker_counts_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", str(limit()))
    assert short(asked()) == ["W005"]
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--worker-class sync")
    assert asked() == []
    monkeypatch.setenv("WEB_CONCURRENCY", str(limit() + 1))
    [warning] = asked()
    assert short([warning]) == ["W005"]
    assert f"{limit() + 1} processes may open 1 connections each" in warning.msg
    # A lower MAX_OUTSTANDING would change nothing.
    assert warning.hint.startswith("Run fewer processes")


@servers
def test_threads_count_where_they_are_fewer_than_max_outstanding(monkeypatch: pytest.MonkeyPatch) -> None:
    most = limit() // 5
    monkeypatch.setenv("GUNICORN_CMD_ARGS", f"--workers {most} --threads 5")
    assert asked() == []
    monkeypatch.setenv("GUNICORN_CMD_ARGS", f"--workers {most + 1} --threads 5")
    [warning] = asked()
    assert f"{most + 1} processes may open 5 connections each" in warning.msg
    monkeypatch.setenv("GUNICORN_CMD_ARGS", f"--workers {limit() // 20} --threads 50")
    assert asked() == []
