from __future__ import annotations

from typing import Any

from cachalot.api import cachalot_disabled, invalidate
from django.db import connection, models, transaction
from django.http import HttpRequest, HttpResponse
from django.test.utils import CaptureQueriesContext
from django.urls import path

from tests.neighbours.site import in_threads, visit, visit_all


class Item(models.Model):
    name = models.CharField(max_length=50)


def read(request: HttpRequest) -> HttpResponse:
    """What there is, and how many statements that took."""
    with CaptureQueriesContext(connection) as queries:
        names = sorted(Item.objects.values_list("name", flat=True))
    return HttpResponse(f"{names} by {len(queries)}")


def write(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        Item.objects.create(name=request.GET["name"])
    return HttpResponse("written")


def write_raw(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO probes_item (name) VALUES (%s)", [request.GET["name"]])
    return HttpResponse("written")


def rolled_back(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        Item.objects.create(name=request.GET["name"])
        inside = Item.objects.count()
        transaction.set_rollback(True)
    return HttpResponse(str(inside - Item.objects.count()))


VIEWS = (read, write, write_raw, rolled_back)
urlpatterns = [path(view.__name__, view) for view in VIEWS]


def probe_read_from_the_cache_until_somebody_writes() -> Any:
    told = []
    for view in ("write", "write_raw", "rolled_back"):
        told += [visit(f"/{view}?name={view}")]
        told += [visit("/read")]
        told += visit_all(["/read"] * 10)
    return told


def probe_many_write() -> Any:
    told = visit_all([f"/{view}?name={n}" for n in range(12) for view in ("write", "write_raw")])
    return told, visit("/read"), visit_all(["/read"] * 10)


def probe_outside_of_requests() -> Any:
    def work(number: int) -> int:
        Item.objects.create(name=f"job {number}")
        with cachalot_disabled():
            return Item.objects.filter(name=f"job {number}").count()

    told = in_threads([lambda number=number: work(number) for number in range(12)])
    invalidate(Item)
    return told, visit("/read"), visit("/read")
