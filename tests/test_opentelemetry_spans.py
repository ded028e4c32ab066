"""How spans of checkouts that wait are switched on. What is in them: behaviour/test_slow_checkout.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scripts import run

PROVIDER = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
"""
GLOBAL = """
trace.set_tracer_provider(provider)
"""
PATCH = """
pooling.patch()
"""
MINE = """
from django_db_pooling.metrics import opentelemetry
opentelemetry.start(tracer_provider=provider)
opentelemetry.start(tracer_provider=provider)
"""
QUERY = """
django.setup()
from django.db import connection
with provider.get_tracer("the site").start_as_current_span("request"):
    # The first one opens, the second one has what is idle.
    for _ in range(2):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        pooling.release()
print([span.name for span in exporter.get_finished_spans()])
"""
SETTING = {"DB_POOL_METRICS": ["opentelemetry"]}


@pytest.mark.parametrize(
    ("script", "settings", "is_on"),
    [
        (PROVIDER + GLOBAL + PATCH + QUERY, SETTING, True),
        (PATCH + PATCH + PROVIDER + GLOBAL + QUERY, SETTING, True),
        (PROVIDER + PATCH + MINE + QUERY, {}, True),
        (PROVIDER + GLOBAL + PATCH + QUERY, {}, False),
        (PROVIDER + PATCH + QUERY, SETTING, False),
    ],
    ids=["before patch", "after patch", "not the global one", "off by default", "without a provider"],
)
def test_a_checkout_that_waits_is_one_span(
    script: str, settings: dict[str, object], is_on: bool, tmp_path: Path
) -> None:
    expected = ["db.client.connection.wait", "request"] if is_on else ["request"]
    assert run(script, tmp_path, **settings) == f"{expected}\n"
