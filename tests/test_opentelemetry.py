"""What OpenTelemetry is told, by its SDK: names, units and attributes of the conventions, and the figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.metrics import Meter, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint, Sum

from django_db_pooling.metrics import opentelemetry
from django_db_pooling.metrics.opentelemetry import MOST_SAMPLES, Instruments
from django_db_pooling.pool import CheckoutTimeout
from django_db_pooling.pool.histogram import BOUNDS, Histogram
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


@pytest.fixture(autouse=True)
def nobody_collects_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Histogram, "most_samples", 0)


def instruments(meter: Meter, *pools: FakePool, least_idle: int = 0) -> Instruments:
    return Instruments(
        meter, lambda: {pool.name: pool.snapshot() for pool in pools}, lambda: pools, lambda alias: least_idle
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
    told = instruments(meter, pool)
    pool.give(pool.take())
    told.tick()
    found = metrics(reader)
    assert {name: unit for name, unit, _ in found} == UNITS
    kinds = {name: (data.is_monotonic if isinstance(data, Sum) else "histogram") for name, _, data in found}
    assert kinds == {
        name: "histogram" if unit == "s" else name.endswith(".timeouts") for name, unit in UNITS.items()
    }
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


def test_every_duration_is_recorded_once(reader: InMemoryMetricReader, meter: Meter, clock: Clock) -> None:
    early = FakePool(size=5)
    early.give(early.take())
    told = instruments(meter, early)
    late = FakePool(size=5)
    told._pools = lambda: (early, late)
    for pool in (early, late):
        for seconds in (0.25, 0.5):
            slot = pool.take()
            clock.now += seconds
            pool.give(slot)
    told.tick()
    told.tick()
    # What was before that isn't told: the early pool has opened its connection.
    [use] = points(reader, "db.client.connection.use_time")
    assert (use.count, use.sum, use.min, use.max) == (4, 1.5, 0.25, 0.5)
    assert tuple(use.explicit_bounds) == BOUNDS
    [wait] = points(reader, "db.client.connection.wait_time")
    assert (wait.count, wait.sum) == (4, 0.0)
    [create] = points(reader, "db.client.connection.create_time")
    assert create.count == 1


def test_callers_that_wait_are_told(reader: InMemoryMetricReader, meter: Meter) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    told = instruments(meter, pool)
    slot = pool.take()
    callers = queue_up(pool, 2)
    assert [point.value for point in points(reader, "db.client.connection.pending_requests")] == [2]
    pool.give(slot)
    for caller in callers:
        pool.give(caller.result())
    told.tick()
    [wait] = points(reader, "db.client.connection.wait_time")
    # The first one had to queue, too, for a connection that it opened.
    assert wait.count == 3
    assert wait.sum > 0


@pytest.mark.parametrize(("waited", "at_once"), [(0, 0), (3, 5), (400, 700), (1000, 99_000)])
def test_many_durations_are_thinned_evenly(waited: int, at_once: int) -> None:
    durations = opentelemetry._thinned([1.0] * waited, at_once)
    assert len(durations) <= MOST_SAMPLES + 1
    if waited + at_once <= MOST_SAMPLES:
        assert (durations.count(1.0), durations.count(0.0)) == (waited, at_once)
    else:
        assert durations.count(1.0) / len(durations) == pytest.approx(waited / (waited + at_once), rel=0.1)


def test_samples_that_nobody_collects_are_bounded() -> None:
    durations = Histogram()
    durations.observe(1.0)
    assert durations.collect() == []
    durations.keep(3)
    for seconds in (1.0, 2.0, 3.0, 4.0):
        durations.observe(seconds)
    assert durations.collect() == [2.0, 3.0, 4.0]
    assert durations.collect() == []
    assert durations.read().count == 5


def test_a_provider_that_records_nothing_is_none() -> None:
    assert not opentelemetry.start(NoOpMeterProvider())
    assert not opentelemetry.start()
    assert not Histogram.most_samples


# -- how it starts ----------------------------------------------------------------------------------

PROVIDER = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
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
TICK = """
from django_db_pooling.metrics import exporters
exporters.tick()
"""
SHOW = """
exporters.tick()
data = reader.get_metrics_data()
print(data.to_json() if data else {})
"""


@pytest.mark.parametrize(
    "begin",
    [
        PROVIDER + PATCH + QUERY + TICK,
        PATCH + PROVIDER + QUERY + TICK,
        "from opentelemetry import metrics" + PATCH + PROVIDER + PATCH + QUERY + TICK,
        PATCH + QUERY + TICK + PROVIDER + TICK + QUERY,
    ],
    ids=["before patch", "before the first pool", "twice", "late"],
)
def test_it_begins_when_there_is_a_provider(begin: str, tmp_path: Path) -> None:
    told = by_name(json.loads(run(begin + SHOW, tmp_path)))
    assert set(UNITS) - set(told) <= {"db.client.connection.create_time"}
    [use] = told["db.client.connection.use_time"]
    assert use["count"] == 1
    assert use["attributes"] == {"db.client.connection.pool.name": "default"}
    [least] = told["db.client.connection.idle.min"]
    assert least["value"] == 2


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    off = PROVIDER + PATCH + QUERY + TICK + SHOW
    assert "db.client" not in run(off, tmp_path, DB_POOL_METRICS=False)


@pytest.mark.parametrize(
    ("provider", "variables"),
    [
        ("from opentelemetry import metrics", {}),
        ("from opentelemetry import metrics; metrics.set_meter_provider(metrics.NoOpMeterProvider())", {}),
        (PROVIDER, {"OTEL_SDK_DISABLED": "true"}),
    ],
    ids=["API alone", "no-op", "disabled"],
)
def test_no_samples_are_kept_for_nobody(provider: str, variables: dict[str, str], tmp_path: Path) -> None:
    show = """
from django_db_pooling.registry import registry
print(exporters.exporters, [pool.counts.helds.samples for pool in registry.pools()])
"""
    text = run(provider + PATCH + QUERY + TICK + show, tmp_path, variables=variables)
    assert text == "[] [None]\n"


# -- under gunicorn, on a real server ---------------------------------------------------------------


@pytest.mark.timeout(120)
def test_what_a_worker_exports_is_what_it_did(mariadb: MariaDB, tmp_path: Path) -> None:
    if not mariadb.execute("SHOW DATABASES LIKE 'e2e'"):
        create_rows(mariadb)
    exported = tmp_path / "exported"

    def told() -> dict[str, list[dict[str, Any]]]:
        lines = exported.read_text().splitlines() if exported.exists() else []
        return by_name(json.loads(lines[-1])) if lines else {}

    def count(name: str) -> int:
        return sum(point["count"] for point in told().get(f"db.client.connection.{name}", []))

    settings = {"module": "tests.site.otel", "otel_file": str(exported)}
    with observing(mariadb) as observer, gunicorn(mariadb, pooling=(2, 4), **settings) as site:
        # Eight visitors, four connections: fewer than MOST_SAMPLES a second, and some have to wait.
        report = site.load("/hold?s=0.05", clients=8, seconds=3).report()
        assert report["failed"] == {}
        answered = report["answered"]["200"]
        for name in ("use_time", "wait_time"):
            eventually(lambda name=name: count(name) == answered, PATIENCE)
        [use] = told()["db.client.connection.use_time"]
        assert use["sum"] >= answered * 0.05
        [wait] = told()["db.client.connection.wait_time"]
        assert wait["sum"] > 0
        assert count("create_time") == site.stats()["opened"]

        def open_ones() -> int:
            return sum(point["value"] for point in told()["db.client.connection.count"])

        eventually(lambda: open_ones() == observer.connections() > 0, PATIENCE)
        [most] = told()["db.client.connection.max"]
        assert most["value"] == 4


def by_name(exported: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The points of each metric, in what the SDK writes as JSON."""
    return {
        metric["name"]: metric["data"]["data_points"]
        for resource in exported.get("resource_metrics", [])
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
    }
