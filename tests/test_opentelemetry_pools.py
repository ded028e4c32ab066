"""An alias that comes back: its durations are recorded from the first on."""

from __future__ import annotations

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.test_opentelemetry import instruments, points
from tests.unit.fakes import FakePool


def test_another_pool_of_the_same_alias_is_recorded_from_its_beginning() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    exporter = instruments(provider.get_meter("tests"))
    for uses in (3, 2, 1):
        pool = FakePool()
        exporter._stats = lambda pool=pool: {"default": pool.snapshot()}  # type: ignore[misc]
        for _ in range(uses):
            pool.give(pool.take())
            exporter.every_second()
            exporter.every_second()
    counts = {name: points(reader, f"db.client.connection.{name}_time")[0].count for name in ("wait", "use")}
    assert counts == {"wait": 6, "use": 6}
    provider.shutdown()
