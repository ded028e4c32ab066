"""A task that fails is logged once, and so is that it works again; the others are done meanwhile."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import pytest

from django_db_pooling.process import fork
from django_db_pooling.process.tasks import Tasks
from tests.concurrency import in_child, silent_fork


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.pool_task) for record in caplog.records]  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def verbose(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "django_db_pooling")


def test_what_fails_is_told_once_and_again_when_it_works_again(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()
    url = "postgres://me:{}@db/x".format("s3cret")

    def fail() -> int:
        raise OSError(url)

    assert [tasks.run("writing", fail) for _ in range(3)] == [None] * 3
    assert [tasks.run("reading", fail)] == [None]
    assert [tasks.run("writing", lambda: 7) for _ in range(3)] == [7] * 3
    assert tasks.run("writing", fail) is None
    assert told(caplog) == [
        ("ERROR", "writing"),
        ("ERROR", "reading"),
        ("WARNING", "writing"),
        ("ERROR", "writing"),
    ]
    assert "s3cret" not in caplog.text
    assert "in fail" in caplog.text


def test_what_works_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    assert Tasks().run("writing", lambda: None) is None
    assert caplog.records == []


def test_who_is_killed_is_not_kept_alive() -> None:
    def end() -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        Tasks().run("writing", end)


@pytest.mark.parametrize("how", [os.fork, silent_fork], ids=["by Python", "by C"])
def test_a_child_tells_itself_what_fails(how: Callable[[], int], caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()

    def fail() -> None:
        raise OSError

    def child() -> int:
        if not fork.noticed[0]:
            fork.notice()
        caplog.clear()
        tasks.run("writing", fail)
        tasks.run("writing", fail)
        return len(caplog.records)

    tasks.run("writing", fail)
    assert in_child(child, how) == 1
    tasks.run("writing", fail)
    assert len(caplog.records) == 1
