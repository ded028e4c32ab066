"""What the pools do, for Prometheus; needs prometheus_client, which the extra ``[prometheus]`` installs.

With ``DB_POOL_METRICS = ["prometheus"]`` the pools are on ``prometheus_client.REGISTRY``; ``register()`` puts
them on any other registry.

All metrics begin with ``django_db_pool_``, go on with the name of a field of ``PoolStats`` and have the
labels ``alias`` and ``pid``; ``django_db_pool_closed_total`` also has ``reason``. The histograms
``django_db_pool_wait_seconds``, ``django_db_pool_held_seconds`` and ``django_db_pool_connect_seconds`` are
what ``PoolStats`` calls waits, helds and connects. Without a limit ``max_outstanding`` and ``free`` are
+Inf. ``host_limit`` and ``host_open``, which all processes of a host share, have a sample only where there is
a HOST_LIMIT.

Each process of the site on this host has series of its own: a sum over processes would drop when one ends,
and ``rate()`` would take that for a restart. ``sum(rate(...))`` is right whoever comes and goes.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from django_db_pooling import status_dir
from django_db_pooling.pool.histogram import BOUNDS, Durations
from django_db_pooling.pool.stats import PoolStats
from django_db_pooling.process.observers import observers
from django_db_pooling.registry import registry as pools
from django_db_pooling.workers import reports

__all__ = ["PoolCollector", "register"]

PREFIX = "django_db_pool_"
LABELS = ["alias", "pid"]
# Fields of PoolStats.
GAUGES = {
    "size": "Idle connections that are kept open.",
    "max_outstanding": "Most connections that may be open at any moment; +Inf: no limit.",
    "in_use": "Connections that are checked out.",
    "idle": "Open connections that are not in use.",
    "free": "Connections that could be checked out at this moment without waiting; +Inf: no limit.",
    "opening": "Connections that are being opened.",
    "ending": "Connections whose statement was given up, until the server has ended it.",
    "waiting": "Callers that wait for a connection.",
    "paused": "Seconds until the pool's pause ends; 0: it isn't paused.",
}
# The same in all processes of a host: no sums.
HOST_GAUGES = {
    "host_limit": "Most connections that all processes of the host may have open together (HOST_LIMIT).",
    "host_open": "Connections that all processes of the host have open, of those that HOST_LIMIT allows.",
}
# What None means.
NONE = {"max_outstanding": math.inf, "free": math.inf, "paused": 0.0}
COUNTERS = {
    "checkouts": "Connections that were checked out.",
    "opened": "Connections that were opened.",
    "timeouts": "Callers that got no connection in time.",
    "shed": "Callers that were turned away while the pool was overloaded, of the timeouts.",
    "refused": "Connections that the server refused since it has too many.",
    "broken": "Connections that were broken: closed by the server, or interrupted in a statement.",
    "reclaimed": "Connections whose holder ended without returning them.",
    "abandoned": "Statements that were given up while the server executed them.",
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

# By process id and alias.
Figures = Mapping[int, Mapping[str, PoolStats]]


def register(registry: CollectorRegistry = REGISTRY, *, only_this_process: bool = False) -> None:
    """Show the pools of all processes of this host on a registry; calling it again changes nothing.

    ``only_this_process``: where each process has a page of its own. Raises ValueError where the registry has
    metrics of these names already.
    """
    # Two threads may be here.
    mine = object()
    if _registries.setdefault(registry, mine) is not mine:
        return
    try:
        registry.register(PoolCollector(this_process if only_this_process else all_processes))
    except BaseException:
        del _registries[registry]
        raise


def this_process() -> Figures:
    return {os.getpid(): pools.all_stats()}


def all_processes() -> Figures:
    """All of this site on this host, as they have reported last (reads files).

    This one, too: its live figures would be ahead of what others show of it, and counters must not go back
    when another process is asked. A process reports from its first query on.
    """
    if not status_dir.is_on():
        return this_process()
    # Containers that share the directory have pages of their own, and may have the same process ids.
    here = reports.pid_space()
    found = {
        report.pid: {alias: pool.stats for alias, pool in report.pools.items()}
        # The latest of each: a process id may have been another process's a moment ago.
        for report in sorted(reports.read(), key=lambda report: report.at)
        if report.pid_space == here
    }
    # It hasn't reported yet, or can't.
    is_missing = os.getpid() not in found and pools.pools()
    return {**found, **this_process()} if is_missing else found


class PoolCollector:
    """Reads the pools whenever Prometheus asks."""

    def __init__(self, read: Callable[[], Figures]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """The metrics without figures, for the registry."""
        return _families([])

    def collect(self) -> Iterable[Metric]:
        """None where that fails: the metrics of others are on the same page."""
        try:
            return self._collect()
        except Exception as error:
            observers.failed("collecting metrics", error)
            return []

    def _collect(self) -> list[Metric]:
        found = [
            ([alias, str(pid)], stats)
            for pid, by_alias in self._read().items()
            for alias, stats in by_alias.items()
        ]
        return list(_families(found))


def _families(found: list[tuple[list[str], PoolStats]]) -> Iterator[Metric]:
    for field, text in GAUGES.items():
        gauge = GaugeMetricFamily(PREFIX + field, text, labels=LABELS)
        for labels, stats in found:
            value = getattr(stats, field)
            gauge.add_metric(labels, NONE[field] if value is None else value)
        yield gauge
    for field, text in HOST_GAUGES.items():
        gauge = GaugeMetricFamily(PREFIX + field, text, labels=LABELS)
        for labels, stats in found:
            value = getattr(stats, field)
            if value is not None:
                gauge.add_metric(labels, value)
        yield gauge
    for field, text in COUNTERS.items():
        counter = CounterMetricFamily(PREFIX + field, text, labels=LABELS)
        for labels, stats in found:
            counter.add_metric(labels, getattr(stats, field))
        yield counter
    closed = CounterMetricFamily(PREFIX + "closed", CLOSED, labels=[*LABELS, "reason"])
    for labels, stats in found:
        for reason, count in stats.closed_by_reason.items():
            closed.add_metric([*labels, reason], count)
    yield closed
    for name, (field, text) in HISTOGRAMS.items():
        histogram = HistogramMetricFamily(PREFIX + name, text, labels=LABELS)
        for labels, stats in found:
            durations: Durations = getattr(stats, field)
            buckets = list(zip(LIMITS, accumulate(durations.buckets), strict=True))
            histogram.add_metric(labels, buckets, durations.seconds)
        yield histogram


_registries: weakref.WeakKeyDictionary[CollectorRegistry, object] = weakref.WeakKeyDictionary()
