"""Pauses as commands: who joins one later, and for how long."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from django_db_pooling import status_dir
from django_db_pooling.workers import commands
from django_db_pooling.workers.agent import Agent
from django_db_pooling.workers.commands import MAX_PAUSE, Action


@pytest.fixture(autouse=True)
def where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    settings = SimpleNamespace(DB_POOL_STATUS_DIR=tmp_path, SECRET_KEY="only for tests")
    monkeypatch.setattr(status_dir, "settings", settings)
    monkeypatch.setattr(status_dir.conf, "there_are_settings", lambda: True)
    return status_dir.path()


class Pools:
    """A registry that only notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def pools(self, alias: str | None = None) -> list[object]:
        return []

    def pause(self, alias: str, seconds: float) -> None:
        self.told.append(("pause", alias, round(seconds)))

    def resume(self, alias: str) -> None:
        self.told.append(("resume", alias))


def give(action: Action, seconds: float | None = None, alias: str = "default") -> None:
    commands.give(alias, action, "boss", seconds)


def joined() -> list[tuple[Any, ...]]:
    pools: Any = Pools()
    Agent(pools).join_pauses()
    return pools.told  # type: ignore[no-any-return]


def test_who_has_no_pool_yet_is_paused_all_the_same() -> None:
    pools: Any = Pools()
    agent = Agent(pools)
    give(Action.PAUSE, 60)
    give(Action.RESUME)
    agent.carry_out_commands()
    assert pools.told == [("pause", "default", 60), ("resume", "default")]


def test_who_starts_later_joins_what_is_left_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    give(Action.PAUSE, 600)
    give(Action.RECYCLE)
    give(Action.PAUSE, 10, "other")
    now = time.time() + 40
    monkeypatch.setattr(time, "time", lambda: now)
    assert joined() == [("pause", "default", 560)]


def test_nobody_joins_one_that_was_ended() -> None:
    give(Action.PAUSE, 600)
    give(Action.RESUME)
    assert joined() == []
    give(Action.PAUSE, 30)
    assert joined() == [("pause", "default", 30)]


@pytest.mark.parametrize("seconds", [None, 0.0, -5.0])
def test_one_without_a_length_is_none(seconds: float | None) -> None:
    pools: Any = Pools()
    agent = Agent(pools)
    give(Action.PAUSE, seconds)
    agent.carry_out_commands()
    assert pools.told == joined() == []


def test_none_lasts_for_longer_than_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    give(Action.PAUSE, 10 * MAX_PAUSE)
    assert joined() == [("pause", "default", round(MAX_PAUSE))]
    # Nor where the clock is set back.
    now = time.time() - 600
    monkeypatch.setattr(time, "time", lambda: now)
    assert joined() == [("pause", "default", round(MAX_PAUSE))]


def test_who_joins_is_paused_for_as_long_as_the_others() -> None:
    give(Action.PAUSE, 50)
    give(Action.RESUME)
    give(Action.PAUSE, 600)
    give(Action.PAUSE, 10)
    assert joined() == [("pause", "default", 600)]


def test_who_was_stopped_hears_of_them_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pools: Any = Pools()
    agent = Agent(pools)
    give(Action.PAUSE, 600)
    give(Action.PAUSE, 30, "other")
    give(Action.RECYCLE)
    now, clock = time.time() + 300, time.monotonic() + 300
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now)
        patch.setattr(time, "monotonic", lambda: clock)
        agent.carry_out_commands()
    assert pools.told == [("pause", "default", 300)]
    give(Action.RESUME)
    now, clock = time.time() + 600, time.monotonic() + 600
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    agent.carry_out_commands()
    assert pools.told[1:] == [("resume", "default")]


def test_where_there_is_no_directory_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SimpleNamespace(DB_POOL_STATUS_DIR=None, SECRET_KEY="only for tests")
    monkeypatch.setattr(status_dir, "settings", settings)
    assert joined() == []
