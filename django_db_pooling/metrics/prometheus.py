"""What the pools do, for Prometheus; needs prometheus_client, which the extra ``[prometheus]`` installs.

Where that is, ``pooling.patch()`` calls ``register()``: who shows ``prometheus_client.REGISTRY``
to Prometheus shows the pools, too. ``settings.DB_POOL_METRICS = False`` prevents it.

All metrics begin with ``django_db_pool_``, go on with the name of a field of ``PoolStats`` and have a
label ``alias``; ``django_db_pool_closed_total`` also has ``reason``. The histograms
``django_db_pool_wait_seconds``, ``django_db_pool_held_seconds`` and ``django_db_pool_connect_seconds`` are
what ``PoolStats`` calls waits, helds and connects. Without a limit ``max_outstanding`` and ``free`` are
+Inf.

In the library's multi-process mode (``PROMETHEUS_MULTIPROC_DIR``) a page has only the library's own
metrics, no collectors: https://prometheus.github.io/client_python/multiprocess/. There the figures of each
process are added to such metrics every second, and the page has the sums of all processes. A process that
was killed stays in the sums of the gauges until somebody calls
``prometheus_client.multiprocess.mark_process_dead(pid)``, as a function ``child_exit`` in gunicorn's
configuration can.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from django_db_pooling.metrics import exporters
from django_db_pooling.pool.histogram import BOUNDS, Durations
from django_db_pooling.pool.stats import PoolStats
from django_db_pooling.registry import registry as pools

__all__ = ["PoolCollector", "register"]

PREFIX = "django_db_pool_"
# Fields of PoolStats.
GAUGES = {
    "size": "Idle connections that are kept open.",
    "max_outstanding": "Most connections that may be open at any moment; +Inf: no limit.",
    "in_use": "Connections that are checked out.",
    "idle": "Open connections that are not in use.",
    "free": "Connections that could be checked out at this moment without waiting; +Inf: no limit.",
    "opening": "Connections that are being opened.",
    "waiting": "Callers that wait for a connection.",
}
COUNTERS = {
    "checkouts": "Connections that were checked out.",
    "opened": "Connections that were opened.",
    "timeouts": "Callers that got no connection in time.",
    "broken": "Connections that were broken: closed by the server, or interrupted in a statement.",
    "reclaimed": "Connections whose holder ended without returning them.",
    "resets": "Sessions that were reset.",
    "pins": "Connections that were pinned to the end of a request or scope.",
}
CLOSED = "Connections that were closed, by reason."
# What of PoolStats they show.
HISTOGRAMS = {
    "wait_seconds": ("waits", "How long it took to get a connection."),
    "held_seconds": ("helds", "How long connections were checked out."),
    "connect_seconds": ("connects", "How long it took to open a connection."),
}

# As the library writes them.
LIMITS = [*map(str, BOUNDS), "+Inf"]

Read = Callable[[], Mapping[str, PoolStats]]


def register(registry: CollectorRegistry = REGISTRY) -> None:
    """Show the pools of all aliases on a registry, from now on; calling it again changes nothing.

    Raises ValueError where the registry has metrics of these names from somebody else, and OSError where the
    directory of the multi-process mode can't be written.
    """
    global _mirror
    if registry in _registries:
        return
    if not is_multiprocess():
        registry.register(_collector)
    else:
        if _mirror is None:
            _mirror = Mirror(pools.all_stats)
            exporters.exporters.append(_mirror)
        for metric in _mirror.metrics:
            registry.register(metric)
    _registries.add(registry)


def is_multiprocess() -> bool:
    """Whether prometheus_client is in its multi-process mode, by the variables that it looks at itself."""
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ or "prometheus_multiproc_dir" in os.environ


class PoolCollector:
    """Reads the pools whenever Prometheus asks. ``read``: gives the figures by alias."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """The metrics without figures, for the registry."""
        return _families({})

    def collect(self) -> Iterable[Metric]:
        return _families(self._read())


def _families(by_alias: Mapping[str, PoolStats]) -> Iterator[Metric]:
    for field, text in GAUGES.items():
        gauge = GaugeMetricFamily(PREFIX + field, text, labels=["alias"])
        for alias, stats in by_alias.items():
            gauge.add_metric([alias], _level(stats, field))
        yield gauge
    for field, text in COUNTERS.items():
        counter = CounterMetricFamily(PREFIX + field, text, labels=["alias"])
        for alias, stats in by_alias.items():
            counter.add_metric([alias], getattr(stats, field))
        yield counter
    closed = CounterMetricFamily(PREFIX + "closed", CLOSED, labels=["alias", "reason"])
    for alias, stats in by_alias.items():
        for reason, count in stats.closed_by_reason.items():
            closed.add_metric([alias, reason], count)
    yield closed
    for name, (field, text) in HISTOGRAMS.items():
        histogram = HistogramMetricFamily(PREFIX + name, text, labels=["alias"])
        for alias, stats in by_alias.items():
            durations: Durations = getattr(stats, field)
            buckets = list(zip(LIMITS, accumulate(durations.buckets), strict=True))
            histogram.add_metric([alias], buckets, durations.seconds)
        yield histogram


def _level(stats: PoolStats, field: str) -> float:
    value: int | None = getattr(stats, field)
    return math.inf if value is None else value


class Mirror:
    """prometheus_client's own metrics, kept at what the pools of this process count.

    For the multi-process mode. There a metric's value is one that all processes share by files, so there is
    one Mirror in a process and its forks.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._gauges = {
            field: Gauge(PREFIX + field, text, ["alias"], registry=None, multiprocess_mode="livesum")
            for field, text in GAUGES.items()
        }
        self._counters = {
            field: Counter(PREFIX + field, text, ["alias"], registry=None) for field, text in COUNTERS.items()
        }
        self._closed = Counter(PREFIX + "closed", CLOSED, ["alias", "reason"], registry=None)
        self._histograms = {
            field: Histogram(PREFIX + name, text, ["alias"], registry=None, buckets=BOUNDS)
            for name, (field, text) in HISTOGRAMS.items()
        }
        # What has been added already, by this process.
        self._told: dict[str, PoolStats] = {}
        self._pid = os.getpid()

    @property
    def metrics(self) -> list[Gauge | Counter | Histogram]:
        return [*self._gauges.values(), *self._counters.values(), self._closed, *self._histograms.values()]

    def tick(self) -> None:
        """Add what has happened since the last time (writes to files that are mapped into memory)."""
        if os.getpid() != self._pid:
            # After a fork the pools begin anew, and so do the values.
            self._told, self._pid = {}, os.getpid()
        for alias, stats in self._read().items():
            before = self._told.get(alias, PoolStats(alias, 0, 0))
            self._told[alias] = stats
            for field, gauge in self._gauges.items():
                gauge.labels(alias).set(_level(stats, field))
            for field, counter in self._counters.items():
                counter.labels(alias).inc(getattr(stats, field) - getattr(before, field))
            for reason, count in stats.closed_by_reason.items():
                self._closed.labels(alias, reason).inc(count - before.closed_by_reason[reason])
            for field, histogram in self._histograms.items():
                _add(histogram.labels(alias), getattr(stats, field), getattr(before, field))

    def end(self) -> None:
        """Add the last of it; this process has no connections any more, and no room for them."""
        self.tick()
        for alias in self._told:
            for gauge in self._gauges.values():
                gauge.labels(alias).set(0)


def _add(histogram: Histogram, now: Durations, before: Durations) -> None:
    """Add many observations at once. The library has no method for that: as its ``observe`` adds one."""
    for value, count, already in zip(histogram._buckets, now.buckets, before.buckets, strict=True):
        if count != already:
            value.inc(count - already)
    histogram._sum.inc(now.seconds - before.seconds)


_collector = PoolCollector(pools.all_stats)
_mirror: Mirror | None = None
_registries: weakref.WeakSet[CollectorRegistry] = weakref.WeakSet()
