"""Starts what tells monitoring systems about the pools, where their libraries are installed.

Nothing here, and nothing that the pools import, imports prometheus_client or opentelemetry before that.
``settings.DB_POOL_METRICS = False`` switches both off.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Protocol

from django.conf import ENVIRONMENT_VARIABLE, settings

from django_db_pooling.process.tasks import tasks

# Who has a meter provider has imported this, or named one in the variable.
OPENTELEMETRY = "opentelemetry.metrics"
PROVIDER_VARIABLE = "OTEL_PYTHON_METER_PROVIDER"


class Exporter(Protocol):
    """Something that hands figures on.

    ``tick``: called every second while there is something to look after. ``end``: when the process ends.
    """

    def tick(self) -> None: ...

    def end(self) -> None: ...


# What is called, in this process and its forks.
exporters: list[Exporter] = []
_is_started = False
# OpenTelemetry's provider may be set at any time, also after the pools have begun.
_awaits_provider = False


def start() -> None:
    """Export from now on, as far as settings and libraries allow it; calling it again changes nothing.

    Where there are no settings yet it does nothing, and is called again with the first pool. Never raises: a
    site without metrics is better than none.
    """
    global _is_started, _awaits_provider
    if not _is_started:
        if not (settings.configured or os.environ.get(ENVIRONMENT_VARIABLE)):
            return
        _is_started = True
        if not getattr(settings, "DB_POOL_METRICS", True):
            return
        _awaits_provider = True
        if find_spec("prometheus_client") is not None:
            tasks.run("metrics for Prometheus", _start_prometheus)
    if _awaits_provider and (OPENTELEMETRY in sys.modules or PROVIDER_VARIABLE in os.environ):
        tasks.run("metrics for OpenTelemetry", _start_opentelemetry)


def tick() -> None:
    """A second has passed. Never raises."""
    start()
    for exporter in exporters:
        tasks.run(f"metrics of {type(exporter).__name__}", exporter.tick)


def end() -> None:
    """The process ends. Never raises."""
    for exporter in exporters:
        tasks.run(f"metrics of {type(exporter).__name__}", exporter.end)


def _start_prometheus() -> None:
    from django_db_pooling.metrics import prometheus

    prometheus.register()


def _start_opentelemetry() -> None:
    global _awaits_provider
    _awaits_provider = False
    from django_db_pooling.metrics import opentelemetry

    _awaits_provider = not opentelemetry.start()
