from __future__ import annotations

from typing import Any

from django.db import connection, models, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from silk.models import Request, SQLQuery

from tests.neighbours.site import visit_all


class Item(models.Model):
    name = models.CharField(max_length=50)


def page(request: HttpRequest) -> HttpResponse:
    name = request.GET["name"]
    with transaction.atomic():
        Item.objects.create(name=name)
        Item.objects.filter(name=name).update(name=f"{name}!")
    rows = [item.name for item in Item.objects.filter(name=f"{name}!").iterator(chunk_size=1)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM probes_item WHERE name = %s", [f"{name}!"])
        return HttpResponse(f"{rows} {cursor.fetchone()[0]}")


def fails(request: HttpRequest) -> HttpResponse:
    Item.objects.create(name="failed")
    raise ValueError("on purpose")


urlpatterns = [
    path("page", page),
    path("fails", fails),
    path("silk/", include("silk.urls", namespace="silk")),
]


def _recorded() -> Any:
    rows = Request.objects.exclude(path__startswith="/silk").values_list(
        "path", "query_params", "num_sql_queries"
    )
    kinds = [text.split(" ")[0] for text in SQLQuery.objects.values_list("query", flat=True)]
    return sorted(map(str, rows)), {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def probe_requests_are_recorded_with_their_statements() -> Any:
    return visit_all([f"/page?name={number}" for number in range(20)]), _recorded()


def probe_failures_are_recorded() -> Any:
    return visit_all(["/fails"] * 8), _recorded(), Item.objects.filter(name="failed").count()


def probe_its_own_pages() -> Any:
    return [(answer.status, "/page" in answer.body) for answer in visit_all(["/silk/requests/"] * 4)]
