"""What the pools do, for OpenTelemetry; needs its API, which the extra ``[opentelemetry]`` installs.

Where a meter provider is set, by the SDK or by ``opentelemetry-instrument``, the pools use it, whenever
that happens. ``settings.DB_POOL_METRICS = False`` prevents it. Without a provider that records something
nothing is measured.

Names, units and attributes are those of the semantic conventions for connection pools of database clients,
https://opentelemetry.io/docs/specs/semconv/db/database-metrics/#connection-pools (status: development).
``db.client.connection.pool.name`` is the alias. ``idle.max`` is ``POOL["SIZE"]``, ``idle.min`` is
``POOL["MIN_SIZE"]``; ``max`` is missing where there is no limit.

Durations are recorded every second, all of them while there are no more than ``MOST_SAMPLES`` of a kind in a
pool, else a sample of them. Without an SDK's provider none are kept.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from django.db import connections
from opentelemetry.metrics import (
    CallbackOptions,
    Histogram,
    Meter,
    MeterProvider,
    NoOpMeter,
    Observation,
    get_meter_provider,
)

from django_db_pooling import __version__, conf
from django_db_pooling.metrics import exporters
from django_db_pooling.pool import histogram
from django_db_pooling.pool.pool import Pool
from django_db_pooling.pool.stats import PoolStats
from django_db_pooling.registry import registry

__all__ = ["start"]

PREFIX = "db.client.connection."
POOL_NAME = "db.client.connection.pool.name"
STATE = "db.client.connection.state"
# How many durations of each kind are recorded of a pool in a second: all, and when there are more, a sample.
# Recording one costs the SDK some microseconds, so a busy process spends less than 1 % of its time on it.
MOST_SAMPLES = 500
# After so many the others have their turn.
A_WHILE = 100

# Fields of Counts.
HISTOGRAMS = {
    "connects": ("create_time", "The time it took to create a new connection."),
    "waits": ("wait_time", "The time it took to obtain an open connection from the pool."),
    "helds": ("use_time", "The time between borrowing a connection and returning it to the pool."),
}


def start(meter_provider: MeterProvider | None = None) -> bool:
    """Measure from now on, with this provider, or else the global one; once.

    Returns whether there is a provider that records something: the API's own does not.
    """
    global _instruments
    if _instruments is None:
        provider = meter_provider or get_meter_provider()
        if type(provider).__module__.startswith("opentelemetry.metrics."):
            return False
        meter = provider.get_meter("django_db_pooling", __version__)
        if isinstance(meter, NoOpMeter):
            # The SDK is there and switched off.
            return False
        _instruments = Instruments(meter, registry.all_stats, registry.pools, _least_idle)
        exporters.exporters.append(_instruments)
    return True


def _least_idle(alias: str) -> int:
    return conf.limits_for(alias, connections.settings[alias]).min_size


class Instruments:
    """All instruments, on one meter.

    ``stats``, ``pools``: give what there is. ``least_idle``: gives the MIN_SIZE of an alias.
    """

    def __init__(
        self,
        meter: Meter,
        stats: Callable[[], Mapping[str, PoolStats]],
        pools: Callable[[], Iterable[Pool]],
        least_idle: Callable[[str], int],
    ) -> None:
        self._stats = stats
        self._pools = pools
        self._least_idle = least_idle
        self._observe(meter)
        self._histograms = {
            field: _histogram(meter, PREFIX + name, text) for field, (name, text) in HISTOGRAMS.items()
        }
        # Of each pool: how many of the checkouts that didn't wait are recorded.
        self._at_once: weakref.WeakKeyDictionary[Pool, int] = weakref.WeakKeyDictionary()
        histogram.Histogram.most_samples = MOST_SAMPLES
        for pool in self._pools():
            self._at_once[pool] = pool.counts.at_once
            for field in self._histograms:
                getattr(pool.counts, field).keep(MOST_SAMPLES)

    def _observe(self, meter: Meter) -> None:
        meter.create_observable_up_down_counter(
            PREFIX + "count",
            [self._count],
            unit="{connection}",
            description="The number of connections that are currently in state described by the `state` "
            "attribute.",
        )
        meter.create_observable_up_down_counter(
            PREFIX + "idle.max",
            [self._observed(lambda stats: stats.size)],
            unit="{connection}",
            description="The maximum number of idle open connections allowed.",
        )
        meter.create_observable_up_down_counter(
            PREFIX + "idle.min",
            [self._observed(lambda stats: self._least_idle(stats.alias))],
            unit="{connection}",
            description="The minimum number of idle open connections allowed.",
        )
        meter.create_observable_up_down_counter(
            PREFIX + "max",
            [self._observed(lambda stats: stats.max_outstanding)],
            unit="{connection}",
            description="The maximum number of open connections allowed.",
        )
        meter.create_observable_up_down_counter(
            PREFIX + "pending_requests",
            [self._observed(lambda stats: stats.waiting)],
            unit="{request}",
            description="The number of current pending requests for an open connection.",
        )
        meter.create_observable_counter(
            PREFIX + "timeouts",
            [self._observed(lambda stats: stats.timeouts)],
            unit="{timeout}",
            description="The number of connection timeouts that have occurred trying to obtain a connection "
            "from the pool.",
        )

    def _count(self, options: CallbackOptions) -> Iterator[Observation]:
        for alias, stats in self._stats().items():
            yield Observation(stats.in_use, {POOL_NAME: alias, STATE: "used"})
            yield Observation(stats.idle, {POOL_NAME: alias, STATE: "idle"})

    def _observed(
        self, read: Callable[[PoolStats], int | None]
    ) -> Callable[[CallbackOptions], Iterator[Observation]]:
        def observe(options: CallbackOptions) -> Iterator[Observation]:
            for alias, stats in self._stats().items():
                value = read(stats)
                if value is not None:
                    yield Observation(value, {POOL_NAME: alias})

        return observe

    def tick(self) -> None:
        """Record what has happened since the last time."""
        for pool in self._pools():
            attributes = {POOL_NAME: pool.name}
            for field, instrument in self._histograms.items():
                samples = getattr(pool.counts, field).collect()
                at_once = self._new_at_once(pool) if field == "waits" else 0
                for number, seconds in enumerate(_thinned(samples, at_once), 1):
                    instrument.record(seconds, attributes)
                    if not number % A_WHILE:
                        # Requests needn't wait for all of this.
                        time.sleep(0)

    def end(self) -> None:
        self.tick()

    def _new_at_once(self, pool: Pool) -> int:
        """How many didn't wait since the last time."""
        before = self._at_once.get(pool, 0)
        # It is one less while a checkout that had to wait is just being counted.
        self._at_once[pool] = now = max(pool.counts.at_once, before)
        return now - before


def _thinned(samples: Sequence[float], at_once: int) -> list[float]:
    """These and as many zeros, or an even share of both where they are too many."""
    step = -(-(len(samples) + at_once) // MOST_SAMPLES) or 1
    return [*samples[::step], *[0.0] * (at_once // step)]


def _histogram(meter: Meter, name: str, description: str) -> Histogram:
    try:
        return meter.create_histogram(
            name, unit="s", description=description, explicit_bucket_boundaries_advisory=histogram.BOUNDS
        )
    except TypeError:
        # An API before 1.30.
        return meter.create_histogram(name, unit="s", description=description)


_instruments: Instruments | None = None
