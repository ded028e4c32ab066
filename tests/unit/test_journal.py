"""What a pool has to tell is noted anywhere and written by its housekeeper only."""

from __future__ import annotations

import ast
import gc
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import django_db_pooling
from django_db_pooling.pool import CheckoutTimeout
from django_db_pooling.pool import journal as journal_module
from django_db_pooling.pool.journal import EVENTS, QUIET, Journal
from django_db_pooling.pool.limits import Limits
from tests.unit.fakes import PASSED, Clock, FakePool

PACKAGE = Path(django_db_pooling.__file__).parent
# Neither may log, whoever calls them.
WRITERS = {
    "log.py",
    "pool/journal.py",
    "process/tasks.py",
    "process/housekeeper.py",
    "dashboard/outside.py",
    "workers/commands.py",
    "workers/publish.py",
    "status_dir.py",
    "checks.py",
    "units.py",
}
FIELDS: dict[str, Any] = {
    "size": 1,
    "max_outstanding": None,
    "connection": 7,
    "open": 4,
    "allowed": "20",
    "limit": 10,
    "own": 20,
    "seconds": 0.5,
    "reason": "age",
    "action": "recycle",
    "by": "somebody",
    "error": "OSError: gone",
    "request": "GET /x",
    "holder": "GET /x in thread MainThread",
    "holders": "2.0 s by GET /y in thread MainThread",
    "remedy": "Wait.",
    "limits": " The pool is paused, for 3 s more.",
    "queue_seconds": 0.3,
    "connect_seconds": 0.2,
    "check_seconds": 0.0,
    "in_use": 20,
    "waiting": 3,
}


@pytest.fixture(autouse=True)
def verbose(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "django_db_pooling")


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    clock.time = lambda: 1_700_000_000.0  # type: ignore[attr-defined]
    monkeypatch.setattr(journal_module, "time", clock)
    yield clock


def events(caplog: pytest.LogCaptureFixture, pool: FakePool | None = None) -> list[str]:
    """What is written, by name, from now on; with a pool after a look of its housekeeper."""
    if pool is not None:
        pool.maintain()
    told = [record.__dict__["pool_event"] for record in caplog.records]
    caplog.clear()
    return told


# -- the journal --------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_is_written_at_its_level_with_its_fields(
    event: str, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal("default")
    journal.note(event, **FIELDS)
    assert not caplog.records
    assert journal.is_pending
    journal.write()
    assert not journal.is_pending
    [record] = caplog.records
    assert (record.name, record.levelno) == ("django_db_pooling", EVENTS[event].level)
    assert record.getMessage().startswith("default: ")
    told = vars(record)
    assert told["pool_event"] == event
    assert told["pool_alias"] == "default"
    assert told["pool_at"] <= record.created
    for name, value in FIELDS.items():
        assert told[f"pool_{name}"] == value
    own = vars(logging.makeLogRecord({}))
    assert {name for name in told if name not in own and name != "message"} == {
        name for name in told if name.startswith("pool_")
    }


def test_in_a_storm_the_first_is_written_at_once_and_the_others_are_counted(
    caplog: pytest.LogCaptureFixture, wall: Clock
) -> None:
    journal = Journal("default")
    journal.note("timeout", error="first", request="GET /a", remedy="Do this.")
    journal.write()
    for number in range(50):
        journal.note("timeout", error=f"later {number}", request="GET /b", remedy="Do this.")
        journal.note("lost", error="another", request="x")
        journal.write()
    assert [record.getMessage() for record in caplog.records] == [
        "default: checkout of GET /a failed: first Do this.",
        "default: connection lost during a statement of x: another",
    ]
    assert journal.is_pending
    caplog.clear()
    wall.now += QUIET
    journal.write()
    storm, others = caplog.records
    assert storm.getMessage() == "default: checkout of GET /b failed: later 49 Do this. (49 more like this)"
    assert vars(storm)["pool_suppressed"] == 49
    assert vars(others)["pool_suppressed"] == 48
    assert not journal.is_pending
    caplog.clear()
    wall.now += QUIET
    journal.note("timeout", error="much later", request="GET /c", remedy="Do that.")
    journal.write()
    assert [record.getMessage() for record in caplog.records] == [
        "default: checkout of GET /c failed: much later Do that."
    ]


def test_at_the_end_nothing_is_kept_back(caplog: pytest.LogCaptureFixture, wall: Clock) -> None:
    journal = Journal("default")
    for _ in range(3):
        journal.note("timeout", error="x", request="GET /x", remedy="y")
        journal.write()
    journal.write(is_last=True)
    assert [vars(record).get("pool_suppressed") for record in caplog.records] == [None, 1]


def test_what_nobody_wants_to_read_is_not_even_noted(caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal("default")
    caplog.set_level(logging.INFO, "django_db_pooling")
    journal.write()
    journal.note("opened", **FIELDS)
    assert not journal.is_pending
    caplog.set_level(logging.DEBUG, "django_db_pooling")
    journal.write()
    journal.note("opened", **FIELDS)
    assert journal.is_pending


def test_notes_that_nobody_writes_are_bounded() -> None:
    journal = Journal("default")
    for _ in range(10_000):
        journal.note("lost", **FIELDS)
    assert len(journal._notes) == journal_module.MAX_NOTES


def test_nothing_else_in_the_package_logs() -> None:
    for path in PACKAGE.rglob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert path.relative_to(PACKAGE).as_posix() in WRITERS or not names & {"logger", "logging"}, path


# -- what a pool tells --------------------------------------------------------------------------------


def test_connections_are_told_of_when_they_come_and_go(caplog: pytest.LogCaptureFixture) -> None:
    pool = FakePool(size=2, max_outstanding=2)
    slot = pool.take_now()
    pool.give(slot)
    assert events(caplog) == []
    assert events(caplog, pool) == ["opened"]
    pool.recycle()
    pool.maintain()
    closed = [vars(record) for record in caplog.records if "closed" in record.getMessage()]
    assert [(told["pool_reason"], told["pool_connection"]) for told in closed] == [("recycled", slot.number)]
    assert events(caplog) == ["recycled", "closed"]


def test_handing_out_and_taking_back_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    pool = FakePool()
    pool.give(pool.take_now())
    events(caplog, pool)
    for _ in range(10):
        pool.give(pool.take_now())
    assert not pool.journal.is_pending


def test_callers_that_get_nothing_are_told_of_with_the_numbers(caplog: pytest.LogCaptureFixture) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now()
    events(caplog, pool)
    for _ in range(5):
        with pytest.raises(CheckoutTimeout):
            pool.checkout(PASSED)
    pool.maintain()
    [record] = caplog.records
    told = vars(record)
    assert told["pool_event"] == "timeout"
    assert (told["pool_in_use"], told["pool_idle"], told["pool_max_outstanding"]) == (1, 0, 1)
    assert told["pool_waiting"] == 1
    assert pool.journal.is_pending
    pool.give(slot)


def test_an_outage_has_a_beginning_and_an_end(caplog: pytest.LogCaptureFixture) -> None:
    pool = FakePool(size=2, max_outstanding=4)
    for _ in range(5):
        pool.open_failed(pool.checkout(None), ConnectionRefusedError("no server"))
    pool.maintain()
    [begins] = caplog.records
    assert begins.levelno == logging.ERROR
    assert begins.getMessage() == "default: connecting fails: ConnectionRefusedError: no server"
    assert len(pool.journal.troubles) == 5
    caplog.clear()
    slot = pool.take_now()
    pool.maintain()
    ends = caplog.records[0]
    assert ends.levelno == logging.WARNING
    assert vars(ends)["pool_seconds"] >= 0
    assert events(caplog) == ["connect_again", "opened"]
    pool.give(slot)


def test_who_was_interrupted_in_connecting_says_nothing_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = FakePool()
    pool.discard(pool.checkout(None))
    slot = pool.take_now()
    assert events(caplog, pool) == ["opened"]
    pool.give(slot)


def test_dead_ones_and_other_limits_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    pool = FakePool(size=3, max_outstanding=3)
    connections = pool.open_idle(3)
    events(caplog, pool)
    connections[2].looks = False
    slot = pool.take_now()
    assert sorted(events(caplog, pool)) == ["closed", "dead"]
    pool.resize(pool.limits)
    assert events(caplog, pool) == []
    pool.resize(Limits(size=1, max_outstanding=9))
    assert events(caplog, pool) == ["resized"]
    pool.give(slot)


def test_a_dropped_lease_is_told_of_with_its_request(caplog: pytest.LogCaptureFixture) -> None:
    class Holder:
        request = "GET /dropped"

    pool = FakePool()
    slot = pool.take_now(Holder())
    del slot
    gc.collect()
    pool.maintain()
    assert (
        "default: connection reclaimed, its holder ended without returning it: GET /dropped"
        in caplog.messages
    )
