from __future__ import annotations

import threading
from typing import Any

import sentry_sdk
from django.db import connection, models, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path
from sentry_sdk.transport import Transport

from tests.neighbours.site import in_threads, is_set_up, visit_all

_events: list[Any] = []
_lock = threading.Lock()


class _Kept(Transport):
    def capture_envelope(self, envelope: Any) -> None:
        for item in envelope.items:
            event = item.payload.json
            if event is not None and "transaction" in event:
                with _lock:
                    _events.append(event)


sentry_sdk.init(
    dsn="http://key@localhost/1",
    transport=_Kept,
    traces_sample_rate=1.0,
    auto_session_tracking=False,
    default_integrations=True,
)


class Item(models.Model):
    name = models.CharField(max_length=50)


def page(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        Item.objects.create(name=request.GET["name"])
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM probes_item WHERE name = %s", [request.GET["name"]])
        return HttpResponse(str(cursor.fetchone()[0]))


def fails(request: HttpRequest) -> HttpResponse:
    Item.objects.create(name=request.GET["name"])
    raise ValueError(request.GET["name"])


urlpatterns = [path("page", page), path("fails", fails)]


def _told() -> Any:
    """Of each event the statements in its spans and breadcrumbs; but for those of connecting."""
    told = []
    for event in _events:
        spans = [span["description"] for span in event.get("spans", []) if span["op"].startswith("db")]
        crumbs = event.get("breadcrumbs", {}).get("values", [])
        crumbs = [crumb["message"] for crumb in crumbs if crumb.get("category") == "query"]
        query = event.get("request", {}).get("query_string", "")
        told.append([event.get("transaction"), query, _own(spans), _own(crumbs)])
    return sorted(told)


def _own(statements: list[str]) -> list[str]:
    return [text for text in statements if text != "connect" and not is_set_up(text)]


def probe_spans_of_requests() -> Any:
    _events.clear()
    return visit_all([f"/page?name={number}" for number in range(24)]), _told()


def probe_breadcrumbs_of_failures() -> Any:
    _events.clear()
    return visit_all([f"/fails?name=f{number}" for number in range(12)]), _told()


def probe_spans_outside_of_requests() -> Any:
    def work() -> int:
        with sentry_sdk.start_transaction(name="work"):
            return Item.objects.filter(name="1").count()

    _events.clear()
    return in_threads([work] * 10), _told()
