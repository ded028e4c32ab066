from __future__ import annotations

from collections import Counter
from typing import Any

from django.db import connection, models, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path
from opentelemetry import trace
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.neighbours.site import is_set_up, visit_all

_exporter = InMemorySpanExporter()
_provider = TracerProvider()
_provider.add_span_processor(SimpleSpanProcessor(_exporter))
trace.set_tracer_provider(_provider)
DjangoInstrumentor().instrument()
PsycopgInstrumentor().instrument(enable_commenter=True, skip_dep_check=True)


class Item(models.Model):
    name = models.CharField(max_length=50)


def page(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        Item.objects.create(name=request.GET["name"])
    told = [item.name for item in Item.objects.filter(name=request.GET["name"]).iterator(chunk_size=1)]
    return HttpResponse(str(told))


def changes(request: HttpRequest) -> HttpResponse:
    """A changed session, which somebody has to undo."""
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = '10s'")
        cursor.execute("SHOW statement_timeout")
        return HttpResponse(cursor.fetchone()[0])


def fails(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM nothing")
    return HttpResponse("")


urlpatterns = [path(view.__name__, view) for view in (page, changes, fails)]


def _spans() -> Any:
    """How often there was which span in which one; but for those of setting a connection up in a request, and
    of asking one that had an error whether it is usable.
    """
    spans = _exporter.get_finished_spans()
    names = {span.context.span_id: span.name for span in spans}
    told: Counter[str] = Counter()
    for span in spans:
        statement = str((span.attributes or {}).get("db.statement"))
        outer = "nothing" if span.parent is None else names.get(span.parent.span_id, "unknown")
        if not statement.startswith("SELECT 1") and (outer == "nothing" or not is_set_up(statement)):
            told[f"{span.name} in {outer}"] += 1
    return sorted(told.items())


def _visit(path: str, times: int = 20) -> Any:
    _exporter.clear()
    answers = visit_all([path] * times)
    return [(answer.status, answer.body[:60]) for answer in answers], _spans()


def probe_spans_of_requests() -> Any:
    return _visit("/page?name=x", 1), _visit("/page?name=y", 1)


def probe_spans_of_many_requests() -> Any:
    _exporter.clear()
    return visit_all([f"/page?name={number}" for number in range(24)]), _spans()


def probe_spans_of_changed_sessions() -> Any:
    return _visit("/changes")


def probe_spans_of_failures() -> Any:
    return _visit("/fails")
