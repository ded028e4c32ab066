"""What OpenTelemetry's SDK gets: names, units and attributes of the conventions, and the figures."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    Gauge,
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
    Sum,
)

from django_db_pooling.metrics import opentelemetry
from django_db_pooling.metrics.opentelemetry import RECORDS_AT_ONCE, Instruments, _spread
from django_db_pooling.pool import CheckoutTimeout
from django_db_pooling.pool.histogram import BOUNDS, Durations, Histogram
from django_db_pooling.pool.stats import PoolStats
from django_db_pooling.process import fork
from tests.e2e.conftest import create_rows
from tests.e2e.observer import observing
from tests.e2e.sites import eventually, gunicorn
from tests.scripts import run
from tests.servers import MariaDB
from tests.unit.conftest import clock as clock
from tests.unit.fakes import Clock, FakePool, queue_up

# https://opentelemetry.io/docs/specs/semconv/db/database-metrics/#connection-pools
UNITS = {
    "db.client.connection.count": "{connection}",
    "db.client.connection.idle.max": "{connection}",
    "db.client.connection.idle.min": "{connection}",
    "db.client.connection.max": "{connection}",
    "db.client.connection.pending_requests": "{request}",
    "db.client.connection.timeouts": "{timeout}",
    "db.client.connection.create_time": "s",
    "db.client.connection.wait_time": "s",
    "db.client.connection.use_time": "s",
    # Ours.
    "django_db_pooling.paused": "s",
    "django_db_pooling.shed": "{timeout}",
}
PATIENCE = 30.0

Point = NumberDataPoint | HistogramDataPoint


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def meter(reader: InMemoryMetricReader) -> Iterator[Meter]:
    provider = MeterProvider([reader])
    yield provider.get_meter("tests")
    provider.shutdown()


def instruments(meter: Meter, *pools: FakePool, least_idle: int = 0) -> Instruments:
    return Instruments(
        meter, lambda: {pool.name: pool.snapshot() for pool in pools}, lambda alias: least_idle
    )


def points(reader: InMemoryMetricReader, metric: str) -> list[Any]:
    return [point for name, _, data in metrics(reader) if name == metric for point in data.data_points]


def metrics(reader: InMemoryMetricReader) -> list[tuple[str, str, Any]]:
    data = reader.get_metrics_data()
    return [
        (metric.name, metric.unit, metric.data)
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]


def test_names_units_and_kinds_are_those_of_the_conventions(
    reader: InMemoryMetricReader, meter: Meter
) -> None:
    pool = FakePool()
    exporter = instruments(meter, pool)
    pool.give(pool.take())
    exporter.every_second()
    found = metrics(reader)
    assert {name: unit for name, unit, _ in found} == UNITS
    kinds = {
        name: data.is_monotonic if isinstance(data, Sum) else type(data).__name__ for name, _, data in found
    }
    assert kinds == {
        name: "Histogram" if unit == "s" else unit == "{timeout}" for name, unit in UNITS.items()
    } | {"django_db_pooling.paused": "Gauge"}
    for name, _, data in found:
        for point in data.data_points:
            assert point.attributes["db.client.connection.pool.name"] == pool.name
            assert len(point.attributes) == (2 if name == "db.client.connection.count" else 1)


def test_figures_of_the_moment(reader: InMemoryMetricReader, meter: Meter) -> None:
    pool = FakePool(size=2, max_outstanding=3)
    used = [pool.take_now() for _ in range(3)]
    pool.give(used.pop())
    instruments(meter, pool, least_idle=1)
    used.append(pool.take_now())
    with pytest.raises(CheckoutTimeout):
        pool.take_now()
    pool.give(used.pop())
    states = {
        point.attributes["db.client.connection.state"]: point.value
        for point in points(reader, "db.client.connection.count")
    }
    assert states == {"used": 2, "idle": 1}
    figures = {"idle.max": 2, "idle.min": 1, "max": 3, "pending_requests": 0, "timeouts": 1}
    for name, value in figures.items():
        assert [point.value for point in points(reader, f"db.client.connection.{name}")] == [value], name


def test_no_limit_is_not_told(reader: InMemoryMetricReader, meter: Meter) -> None:
    instruments(meter, FakePool(max_outstanding=None))
    assert not points(reader, "db.client.connection.max")
    assert points(reader, "db.client.connection.idle.max")


def test_what_the_host_has_is_told_where_it_has_a_limit(reader: InMemoryMetricReader, meter: Meter) -> None:
    """As gauges: the sum of several processes would be a multiple."""
    told = {
        "default": PoolStats("default", 10, 20, host_limit=20, host_open=17),
        "unused": PoolStats("unused", 10, 20, host_limit=30),
        "other": PoolStats("other", 10, 20),
    }
    Instruments(meter, lambda: told, lambda alias: 0)
    found = {name: (unit, data) for name, unit, data in metrics(reader) if "host" in name}
    assert {
        name: [
            (point.attributes["db.client.connection.pool.name"], point.value) for point in data.data_points
        ]
        for name, (_, data) in found.items()
    } == {
        "django_db_pooling.host.max": [("default", 20), ("unused", 30)],
        "django_db_pooling.host.count": [("default", 17)],
    }
    for unit, data in found.values():
        assert (unit, type(data)) == ("{connection}", Gauge)


def test_every_duration_is_recorded_once(reader: InMemoryMetricReader, meter: Meter, clock: Clock) -> None:
    pool = FakePool(size=5)
    pool.give(pool.take())
    exporter = instruments(meter, pool)
    for seconds in (0.25, 0.5, 0.5, 0.25):
        slot = pool.take()
        clock.now += seconds
        pool.give(slot)
        exporter.every_second()
    exporter.every_second()
    # What was before isn't recorded: the pool has opened its connection.
    [use] = points(reader, "db.client.connection.use_time")
    assert (use.count, use.sum, use.min, use.max) == (4, 1.5, 0.25, 0.5)
    assert tuple(use.explicit_bounds) == BOUNDS
    [wait] = points(reader, "db.client.connection.wait_time")
    assert (wait.count, wait.sum) == (4, 0.0)
    assert not points(reader, "db.client.connection.create_time")


def test_a_pool_that_is_new_or_a_forked_child_s_is_recorded_from_its_beginning(
    reader: InMemoryMetricReader, meter: Meter
) -> None:
    pool = FakePool()
    pool.give(pool.take())
    exporter = instruments(meter)
    exporter._stats = lambda: {"default": pool.snapshot()}
    exporter.every_second()
    pool = FakePool()
    pool.give(pool.take())
    exporter.forked()
    exporter.end()
    for name in ("create_time", "wait_time", "use_time"):
        [point] = points(reader, f"db.client.connection.{name}")
        assert point.count == 2, name


@given(st.lists(st.lists(st.floats(0, 100), max_size=30), min_size=1, max_size=5))
def test_buckets_and_sums_are_exact(rounds: list[list[float]]) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    pool = FakePool()
    exporter = instruments(provider.get_meter("tests"), pool)
    for durations in rounds:
        for seconds in durations:
            pool.counts.connects.observe(seconds)
        exporter.every_second()
    provider_points = points(reader, "db.client.connection.create_time")
    provider.shutdown()
    counted = pool.counts.connects.read()
    if not counted.count:
        assert not provider_points
        return
    [point] = provider_points
    assert tuple(point.bucket_counts) == counted.buckets
    assert point.sum == pytest.approx(counted.seconds, rel=1e-9, abs=1e-9)


def test_a_sum_that_others_are_adding_to_meanwhile_keeps_durations_in_their_buckets() -> None:
    histogram = Histogram()
    for seconds in (0.002, 0.7, 40.0):
        histogram.observe(seconds)
    for seconds in (0.0, 10.0, 1000.0):
        values = _spread(Durations(histogram.read().buckets, seconds))
        assert [bisect_left(BOUNDS, value) for value in values] == list(range(len(BOUNDS) + 1))


def test_a_greenlet_that_lives_on_in_a_forked_child_records_nothing_more(
    reader: InMemoryMetricReader, meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was recording what its parent's pools had counted."""
    pool = FakePool(size=1)
    recording = instruments(meter, pool)
    for _ in range(RECORDS_AT_ONCE * 3):
        pool.give(pool.take_now())
    monkeypatch.setattr(fork, "process", fork.process)
    # While the greenlet sleeps.
    monkeypatch.setattr(opentelemetry.time, "sleep", lambda seconds: setattr(fork, "process", object()))
    recording.every_second()
    recorded = [
        point.count
        for name in ("create_time", "wait_time", "use_time")
        for point in points(reader, f"db.client.connection.{name}")
    ]
    assert sum(recorded) <= RECORDS_AT_ONCE + 1


def test_callers_that_wait_are_told(reader: InMemoryMetricReader, meter: Meter) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    exporter = instruments(meter, pool)
    slot = pool.take()
    callers = queue_up(pool, 2)
    assert [point.value for point in points(reader, "db.client.connection.pending_requests")] == [2]
    pool.give(slot)
    for caller in callers:
        pool.give(caller.result())
    exporter.every_second()
    [wait] = points(reader, "db.client.connection.wait_time")
    # The first one had to queue, too, for a connection that it opened.
    assert wait.count == 3
    assert wait.sum > 0


# -- how it starts ----------------------------------------------------------------------------------

PROVIDER = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
"""
MINE = """
from django_db_pooling.metrics import opentelemetry
opentelemetry.start(mine)
"""
PATCH = """
pooling.patch()
"""
QUERY = """
django.setup()
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SELECT 1")
pooling.release()
"""
SECOND = """
from django_db_pooling.metrics import opentelemetry
opentelemetry._instruments.every_second()
"""
SHOW = """
data = reader.get_metrics_data()
print(data.to_json() if data else {})
"""
A_LINE = """
from django_db_pooling.metrics import opentelemetry
opentelemetry.start()
opentelemetry.start()
"""
SETTING = {"DB_POOL_METRICS": ["opentelemetry"]}


@pytest.mark.parametrize(
    ("begin", "settings"),
    [
        (PROVIDER + PATCH + QUERY, SETTING),
        (PATCH + PROVIDER + QUERY, SETTING),
        (PATCH + PATCH + PROVIDER + PATCH + QUERY, SETTING),
        (PATCH + QUERY + SECOND + PROVIDER + QUERY, SETTING),
        (PROVIDER + PATCH + A_LINE + QUERY, {}),
        (A_LINE + PATCH + PROVIDER + QUERY, {}),
        (PROVIDER.replace("metrics.set_meter_provider", "mine = ") + PATCH + MINE + QUERY, {}),
    ],
    ids=["before patch", "after patch", "twice", "late", "a line", "a line before all", "not the global one"],
)
def test_it_measures_once_there_is_a_provider(
    begin: str, settings: dict[str, object], tmp_path: Path
) -> None:
    exported = by_name(json.loads(run(begin + SECOND + SHOW, tmp_path, **settings)))
    assert set(UNITS) - set(exported) <= {"db.client.connection.create_time"}
    [use] = exported["db.client.connection.use_time"]
    assert use["count"] == 1
    assert use["attributes"] == {"db.client.connection.pool.name": "default"}
    [least] = exported["db.client.connection.idle.min"]
    assert least["value"] == 2


def test_it_is_off_by_default(tmp_path: Path) -> None:
    assert "db.client" not in run(PROVIDER + PATCH + QUERY + SHOW, tmp_path)


# -- under gunicorn, on a real server ---------------------------------------------------------------


@pytest.mark.timeout(120)
def test_what_a_worker_exports_is_what_it_did(mariadb: MariaDB, tmp_path: Path) -> None:
    if not mariadb.execute("SHOW DATABASES LIKE 'e2e'"):
        create_rows(mariadb)
    exported = tmp_path / "exported"

    def last() -> dict[str, list[dict[str, Any]]]:
        lines = exported.read_text().splitlines() if exported.exists() else []
        return by_name(json.loads(lines[-1])) if lines else {}

    def count(name: str) -> int:
        return sum(point["count"] for point in last().get(f"db.client.connection.{name}", []))

    settings = {"module": "tests.site.otel", "otel_file": str(exported)}
    with observing(mariadb) as observer, gunicorn(mariadb, pooling=(2, 4), **settings) as site:
        # Eight visitors, four connections: some have to wait.
        report = site.load("/hold?s=0.05", clients=8, seconds=3).report()
        assert report["failed"] == {}
        answered = report["answered"]["200"]
        for name in ("use_time", "wait_time"):
            eventually(lambda name=name: count(name) == answered, PATIENCE)
        [use] = last()["db.client.connection.use_time"]
        assert use["sum"] >= answered * 0.05
        [wait] = last()["db.client.connection.wait_time"]
        assert wait["sum"] > 0
        assert count("create_time") == site.stats()["opened"]

        def open_ones() -> int:
            return sum(point["value"] for point in last()["db.client.connection.count"])

        eventually(lambda: open_ones() == observer.connections() > 0, PATIENCE)
        [most] = last()["db.client.connection.max"]
        assert most["value"] == 4


def by_name(exported: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The points of each metric, in what the SDK writes as JSON."""
    return {
        metric["name"]: metric["data"]["data_points"]
        for resource in exported.get("resource_metrics", [])
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
    }
