"""Fixtures for tests of the pool without a server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from django_db_pooling.pool import growth as growth_module
from django_db_pooling.process import wakeup
from tests.unit.fakes import TIMED, Clock


@pytest.fixture
def no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up that gets lost stays lost: waiters don't look for themselves."""
    monkeypatch.setattr(wakeup, "RECHECK_INTERVAL", 3600.0)
    monkeypatch.setattr(growth_module, "STALLED", 3600.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    for module in TIMED:
        monkeypatch.setattr(module, "time", clock)
    yield clock
