"""Whatever lies in the directory of the reports: the page and ``db_pools`` work, and pass it over."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_db_pooling import status_dir
from django_db_pooling.dashboard import presentation
from django_db_pooling.management.table import table
from django_db_pooling.pool.stats import Closed, Counts, PoolStats
from django_db_pooling.status_dir import Kind
from django_db_pooling.workers import commands, overview
from django_db_pooling.workers.commands import Action, Command
from django_db_pooling.workers.decoding import MAX_NUMBER, decode
from django_db_pooling.workers.overview import Overview
from django_db_pooling.workers.publish import Publisher
from django_db_pooling.workers.reports import PoolReport, Report, Sample
from tests.unit.test_overview import durations

NOW = time.time()


@pytest.fixture(autouse=True)
def fresh() -> None:
    """An old report isn't read."""
    REPORT["at"] = COMMAND["at"] = time.time()


@pytest.fixture(autouse=True, scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    told = SimpleNamespace(DB_POOL_STATUS_DIR=tmp_path_factory.mktemp("status"), SECRET_KEY="only for tests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presentation.timezone, "get_current_timezone", lambda: datetime.UTC)
        patch.setattr(status_dir, "settings", told)
        with status_dir.opened(make=True):
            yield status_dir.path()


def pool(alias: str = "default", **changes: Any) -> PoolReport:
    stats = PoolStats(alias, 5, 10, in_use=3, checkouts=70, waits=durations(b0=60), helds=durations(b3=1))
    return PoolReport(
        replace(stats, **changes),
        held=[(1.5, "GET /one in thread MainThread")],
        troubles=[(2.0, "timeout", "No connection: waited 4.0 s. Held longest: GET /two")],
        history=[Sample(NOW - 5 * ago, 1, 2, 3, 4, 5, 6.0, 7.0) for ago in (3, 2, 1)],
        waits=durations(b0=6),
    )


def report(**changes: Any) -> Report:
    told = Publisher().report({}, {}, [])
    pools = {
        "default": pool(),
        "other": pool("other", max_outstanding=None),
        "shared": pool("shared", host_limit=20, host_open=17),
    }
    return replace(told, **{"pools": pools, **changes})


def command() -> Command:
    return Command(status_dir.new_id(time.time_ns()), time.time(), "default", Action.RECYCLE, "boss")


def put(where: Path, kind: Kind, one: str, text: bytes) -> Path:
    path = where / f"django_db_pooling-{kind}-{one}.json"
    path.write_bytes(text)
    return path


def shown() -> Overview:
    """Everything that is made of the files; what a terminal and a page take."""
    seen = overview.look(own=False)
    table(seen).encode()
    str(presentation.context(seen, SimpleNamespace(name="boss", may_act=True, seen=None))).encode()
    json.dumps(seen.as_dict(), allow_nan=False).encode()
    return seen


# -- what is understood ----------------------------------------------------------------------------------


def test_a_report_and_a_command_are_read_as_they_were_written() -> None:
    for kind, told in ((Report, report(carried_out=["1", "2"])), (Command, command())):
        assert decode(kind, json.dumps(asdict(told)).encode()) == told


def test_a_caller_that_has_queued_and_is_not_counted_yet_is_no_negative_number() -> None:
    """Another thread reads in between."""
    counts = Counts()
    counts.queued += 1
    stats = PoolStats("default", 5, 10, **counts.read())
    told = report(pools={"default": replace(pool(), stats=stats, waits=stats.waits.minus(durations(b0=1)))})
    assert decode(Report, json.dumps(asdict(told)).encode()) == told


# -- what is not -----------------------------------------------------------------------------------------

ODD: list[Any] = [
    None,
    True,
    -1,
    10**400,
    MAX_NUMBER,
    MAX_NUMBER + 1,
    0,
    float("nan"),
    float("inf"),
    -1e300,
    1.5,
    "7",
    "\ud800",
    [],
    [[]],
    {},
    {"default": {}},
    [[1.0, "x"], None],
    "x" * 10_000,
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(ODD),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
    max_leaves=20,
)


def places(told: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in it something could be something else."""
    items = told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def changed(told: Any, path: tuple[Any, ...], value: Any, how: str) -> Any:
    """A copy with another value there, without one, or with one more beside it."""
    copy = json.loads(json.dumps(told))
    inside = copy
    for key in path[:-1]:
        inside = inside[key]
    if how == "replaced":
        inside[path[-1]] = value
    elif how == "removed":
        del inside[path[-1]]
    elif isinstance(inside, dict):
        inside["another"] = value
    else:
        inside.insert(path[-1], value)
    return copy


REPORT, COMMAND = asdict(report()), asdict(command())
PLACES = {Kind.REPORT: sorted(places(REPORT), key=str), Kind.COMMAND: sorted(places(COMMAND), key=str)}


@st.composite
def damaged(draw: st.DrawFn) -> tuple[Kind, Any]:
    """A real one with some changes."""
    kind = draw(st.sampled_from(list(Kind)))
    told = REPORT if kind is Kind.REPORT else COMMAND
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(PLACES[kind]))
        how = draw(st.sampled_from(["replaced", "removed", "added"]))
        try:
            told = changed(told, path, draw(json_values), how)
        except (KeyError, IndexError, TypeError, AttributeError):
            # What was there has been changed already.
            continue
    return kind, told


texts = (
    st.tuples(st.sampled_from(list(Kind)), json_values)
    | damaged()
    | st.tuples(st.sampled_from(list(Kind)), st.binary())
)


@settings(deadline=None, max_examples=500)
@given(texts, st.booleans())
def test_nothing_that_lies_there_raises(where: Path, what: tuple[Kind, Any], names_itself: bool) -> None:
    kind, told = what
    number = status_dir.new_id(7)
    if names_itself and isinstance(told, dict):
        told = told | {"id": number}
    text = told if isinstance(told, bytes) else json.dumps(told).encode()
    path = put(where, kind, number, text)
    try:
        shown()
        commands.Listener().due()
    finally:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
def test_nothing_raises_wherever_it_stands_in_a_report(where: Path, value: Any) -> None:
    one = status_dir.new_id(7)
    told = REPORT | {"id": one}
    for place in PLACES[Kind.REPORT]:
        if place == ("id",):
            continue
        text = json.dumps(changed(told, place, value, "replaced")).encode()
        path = put(where, Kind.REPORT, one, text)
        shown()
        path.unlink()


def test_what_cannot_be_decoded_is_ignored_and_logged_once(
    where: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, broken = report(), report()
    put(where, Kind.REPORT, whole.id, json.dumps(asdict(whole)).encode())
    wrong = changed(asdict(broken), ("pools", "default", "stats", "in_use"), "password=hunter2", "replaced")
    path = put(where, Kind.REPORT, broken.id, json.dumps(wrong).encode())
    for _ in range(3):
        assert len(shown().workers) == 1
    [record] = caplog.records
    assert record.getMessage() == f"ignoring {path}: pools: stats: in_use: no count"
    assert vars(record)["pool_event"] == "status"
    for each in where.iterdir():
        each.unlink()


@pytest.mark.parametrize(
    "changes",
    [
        {"closed_by_reason": dict.fromkeys(map(str, Closed), 0) | {"new reason": 1}},
        {"closed_by_reason": {}},
        {"waits": {"buckets": [1], "seconds": 1.0}},
    ],
)
def test_reports_of_another_version_are_ignored(where: Path, changes: dict[str, Any]) -> None:
    told = asdict(report())
    told["pools"]["default"]["stats"] |= changes
    path = put(where, Kind.REPORT, told["id"], json.dumps(told).encode())
    assert shown().workers == []
    path.unlink()
