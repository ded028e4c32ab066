"""A process that forks in a pause: its children are paused, too, and hear of the end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import override_settings

from django_db_pooling import pooling
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.process import housekeeper
from django_db_pooling.workers import commands
from django_db_pooling.workers.agent import agent
from django_db_pooling.workers.commands import Action
from tests.behaviour.conftest import eventually, in_thread, in_threads, token
from tests.concurrency import in_child


@pytest.fixture(autouse=True)
def paused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(housekeeper, "TICK", 0.05)
    with override_settings(DB_POOL_STATUS_DIR=str(tmp_path)):
        in_thread(token)
        commands.give("default", Action.PAUSE, "boss", 60)
        eventually(lambda: pooling.stats("default").paused is not None)
        yield
        pooling.resume()
        agent.end()


def test_a_child_is_paused_too() -> None:
    def waits() -> str:
        pooling.set_pool_size(1, timeout=0.3)
        try:
            token()
        except PoolTimeout as error:
            return str(error)
        return "served"

    assert "The pool is paused" in in_child(waits)


def test_it_waits_until_it_hears_of_the_end(tmp_path: Path) -> None:
    parent, waiting = os.getpid(), tmp_path / "waiting"

    def waits() -> float:
        waiting.touch()
        began = time.monotonic()
        token()
        return time.monotonic() - began

    def resumes() -> None:
        eventually(waiting.exists)
        time.sleep(0.5)
        # The child has this greenlet, too.
        if os.getpid() == parent:
            commands.give("default", Action.RESUME, "boss")

    def forks() -> float:
        return float(in_child(waits))

    assert 0.4 < in_threads([forks, resumes])[0] < 5


def test_one_that_began_between_the_end_and_its_parent_s_hearing_of_it_is_served() -> None:
    commands.give("default", Action.RESUME, "boss")
    assert in_child(lambda: token() or "served") == "served"  # type: ignore[func-returns-value]
