"""What the pools do, for OpenTelemetry; needs its API, which the extra ``[opentelemetry]`` installs.

With ``DB_POOL_METRICS = ["opentelemetry"]``, or after ``start()``, the pools are measured as soon as there is
a meter provider: before that OpenTelemetry's API gives out proxies. Checkouts that wait are spans then, too:
see ``spans.py``.

Names, units and attributes are those of the semantic conventions for connection pools of database clients,
https://opentelemetry.io/docs/specs/semconv/db/database-metrics/#connection-pools (status: development).
``db.client.connection.pool.name`` is the alias. ``idle.max`` is ``POOL["SIZE"]``, ``idle.min`` is
``POOL["MIN_SIZE"]``; ``max`` is missing where there is no limit. What the conventions don't have begins with
``django_db_pooling.``; of that ``host.max`` and ``host.count`` are what all processes of the host may have
open together (HOST_LIMIT), and have. Each of them tells the same, so these are gauges, which nobody adds up.

A pool counts durations in buckets, and once a second what was added to them is recorded: each duration
once, as a value within its bucket, chosen so that the sum stays right. So counts, sums and the buckets that
the instruments advise are exact; a single duration, as in minima, maxima and exponential histograms, is
known no better than its bucket.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping

from django.db import connections
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter_provider
from opentelemetry.trace import TracerProvider

from django_db_pooling import __version__, conf
from django_db_pooling.metrics import spans
from django_db_pooling.pool.histogram import BOUNDS, Durations
from django_db_pooling.pool.stats import PoolStats
from django_db_pooling.process import fork, upkeep
from django_db_pooling.process.tasks import Tasks
from django_db_pooling.registry import registry

__all__ = ["start"]

PREFIX = "db.client.connection."
POOL_NAME = "db.client.connection.pool.name"
STATE = "db.client.connection.state"
# Of what the conventions have no name for.
OWN_PREFIX = "django_db_pooling."
# Least of what each bucket of BOUNDS holds: its lower bound belongs to the bucket before.
LEAST = (0.0, *(math.nextafter(bound, math.inf) for bound in BOUNDS))
# After so many records, of some microseconds each, other greenlets have their turn.
RECORDS_AT_ONCE = 100

# Fields of PoolStats.
HISTOGRAMS = {
    "connects": ("create_time", "The time it took to create a new connection."),
    "waits": ("wait_time", "The time it took to obtain an open connection from the pool."),
    "helds": ("use_time", "The time between borrowing a connection and returning it to the pool."),
}

Read = Callable[[PoolStats], int | float | None]


def start(meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None) -> None:
    """Measure from now on. Without a provider it is the global one. Calling it again changes nothing."""
    global _instruments
    # Two threads may be here: the instruments of the second would record everything once more.
    mine = object()
    if _started.setdefault("by", mine) is not mine:
        return
    try:
        meter = (meter_provider or get_meter_provider()).get_meter("django_db_pooling", __version__)
        _instruments = Instruments(meter, registry.all_stats, _least_idle)
        spans.start(tracer_provider)
    except BaseException:
        _started.clear()
        raise
    # It records what the end of the others adds, and hands it to a library that ends at exit, too.
    upkeep.add(_instruments, last=True)
    upkeep.end_before_others()


def _least_idle(alias: str) -> int | None:
    settings_dict = connections.settings.get(alias)
    # The alias may be gone this instant.
    return None if settings_dict is None else conf.limits_for(alias, settings_dict).min_size


class Instruments:
    """All instruments, on one meter.

    ``stats``: gives what there is, by alias. ``least_idle``: gives the MIN_SIZE of an alias.
    """

    name = "metrics for OpenTelemetry"

    def __init__(
        self,
        meter: Meter,
        stats: Callable[[], Mapping[str, PoolStats]],
        least_idle: Callable[[str], int | None],
    ) -> None:
        self.tasks = Tasks()
        self._stats = stats
        self._least_idle = least_idle
        self._observe(meter)
        self._histograms = {
            field: meter.create_histogram(
                PREFIX + name, unit="s", description=text, explicit_bucket_boundaries_advisory=BOUNDS
            )
            for field, (name, text) in HISTOGRAMS.items()
        }
        # By alias and field of PoolStats; what there was before isn't recorded.
        self._recorded: dict[tuple[str, str], Durations] = {
            (alias, field): getattr(before, field)
            for alias, before in self._stats().items()
            for field in HISTOGRAMS
        }

    def _observe(self, meter: Meter) -> None:
        meter.create_observable_up_down_counter(
            PREFIX + "count",
            [self._count],
            unit="{connection}",
            description="The number of connections that are currently in state described by the `state` "
            "attribute.",
        )
        limits: dict[str, tuple[Read, str]] = {
            "idle.max": (lambda stats: stats.size, "The maximum number of idle open connections allowed."),
            "idle.min": (
                lambda stats: self._least_idle(stats.alias),
                "The minimum number of idle open connections allowed.",
            ),
            "max": (lambda stats: stats.max_outstanding, "The maximum number of open connections allowed."),
        }
        for name, (read, text) in limits.items():
            meter.create_observable_up_down_counter(
                PREFIX + name, [self._observed(read)], unit="{connection}", description=text
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

        of_host: dict[str, tuple[Read, str]] = {
            "max": (
                lambda stats: stats.host_limit,
                "The maximum number of open connections allowed for all processes of the host together.",
            ),
            "count": (
                lambda stats: stats.host_open,
                "The number of connections that all processes of the host have open.",
            ),
        }
        for name, (read, text) in of_host.items():
            meter.create_observable_gauge(
                f"{OWN_PREFIX}host.{name}", [self._observed(read)], unit="{connection}", description=text
            )
        meter.create_observable_gauge(
            OWN_PREFIX + "paused",
            [self._observed(lambda stats: stats.paused or 0.0)],
            unit="s",
            description="The time until the pool's pause ends; 0: it isn't paused.",
        )
        meter.create_observable_counter(
            OWN_PREFIX + "shed",
            [self._observed(lambda stats: stats.shed)],
            unit="{timeout}",
            description="The number of callers that were turned away while the pool was overloaded, of the "
            "timeouts.",
        )

    def _count(self, options: CallbackOptions) -> Iterator[Observation]:
        for alias, stats in self._stats().items():
            yield Observation(stats.in_use, {POOL_NAME: alias, STATE: "used"})
            yield Observation(stats.idle, {POOL_NAME: alias, STATE: "idle"})

    def _observed(self, read: Read) -> Callable[[CallbackOptions], Iterator[Observation]]:
        def observe(options: CallbackOptions) -> Iterator[Observation]:
            for alias, stats in self._stats().items():
                value = read(stats)
                if value is not None:
                    yield Observation(value, {POOL_NAME: alias})

        return observe

    def every_second(self) -> bool:
        """Record what has been added since the last time. What adds durations needs the next time itself."""
        process = fork.process
        for alias, stats in self._stats().items():
            for field in HISTOGRAMS:
                if not fork.is_own(process):
                    # A greenlet that lives on in a forked child: these are its parent's.
                    return False
                self._record(alias, field, getattr(stats, field))
        return False

    def forked(self) -> None:
        # The pools of a forked child begin at nothing.
        self._recorded = {}

    def end(self) -> None:
        self.every_second()

    def _record(self, alias: str, field: str, durations: Durations) -> None:
        recorded = self._recorded.get((alias, field), Durations())
        if any(now < then for now, then in zip(durations.buckets, recorded.buckets, strict=True)):
            # Another pool goes by this alias by now.
            recorded = Durations()
        new = durations.minus(recorded)
        values = _spread(new)
        # What others were adding meanwhile comes the next time.
        seconds = sum(value * count for value, count in zip(values, new.buckets, strict=True))
        self._recorded[alias, field] = recorded.plus(Durations(new.buckets, seconds))
        attributes, process = {POOL_NAME: alias}, fork.process
        for value, count in zip(values, new.buckets, strict=True):
            for number in range(1, count + 1):
                self._histograms[field].record(value, attributes)
                if not number % RECORDS_AT_ONCE:
                    time.sleep(0)
                    if not fork.is_own(process):
                        return


def _spread(durations: Durations) -> list[float]:
    """A duration for each bucket, within its bounds: if all of it were that, the sum is as it was."""
    least = sum(low * count for low, count in zip(LEAST, durations.buckets, strict=True))
    spare = max(0.0, durations.seconds - least)
    most = (*BOUNDS, BOUNDS[-1] + max(BOUNDS[-1], spare))
    room = sum((high - low) * count for low, high, count in zip(LEAST, most, durations.buckets, strict=True))
    share = min(1.0, spare / room) if room else 0.0
    return [min(high, low + share * (high - low)) for low, high in zip(LEAST, most, strict=True)]


_instruments: Instruments | None = None
_started: dict[str, object] = {}
