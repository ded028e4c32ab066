"""Settings of a site whose figures OpenTelemetry's SDK exports to a file, a line of JSON each time."""

from __future__ import annotations

import os
from pathlib import Path

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader

from tests.site.settings import *  # noqa: F403

_file = Path(os.environ["SITE_OTEL_FILE"]).open("a", buffering=1)  # noqa: SIM115
_exporter = ConsoleMetricExporter(out=_file, formatter=lambda data: data.to_json(indent=None) + "\n")
_reader = PeriodicExportingMetricReader(_exporter, export_interval_millis=500)
metrics.set_meter_provider(MeterProvider([_reader]))
DB_POOL_METRICS = ["opentelemetry"]
