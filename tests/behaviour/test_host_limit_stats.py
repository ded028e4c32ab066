"""What stats() tells of HOST_LIMIT: of an alias that nobody has used, and of one in use."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.db import connection, connections
from django.test import override_settings

from django_db_pooling import pooling
from tests.behaviour.conftest import request_finished, request_started

LIMIT = 7


def test_the_limit_is_known_before_the_first_query(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = {"HOST_LIMIT": LIMIT}
    settings = {**connections.settings["default"], "POOL": pool}
    monkeypatch.setitem(connections.settings, "unused", settings)
    stats = pooling.stats("unused")
    assert (stats.host_limit, stats.host_open) == (LIMIT, None)


def test_what_is_open_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(connections.settings["default"], "POOL", {"HOST_LIMIT": LIMIT})
    with override_settings(DB_POOL_STATUS_DIR=str(tmp_path)):
        pooling.set_pool_size(2, max_outstanding=None)
        request_started()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            stats = pooling.stats("default")
        request_finished()
        assert (stats.host_limit, stats.host_open, stats.in_use) == (LIMIT, 1, 1)
        rested = pooling.stats("default")
        assert (rested.host_open, rested.idle, rested.free) == (1, 1, LIMIT)
