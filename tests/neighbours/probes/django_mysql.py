from __future__ import annotations

from typing import Any

from django.db import connection, connections, models, transaction
from django.http import HttpRequest, HttpResponse
from django.test.utils import CaptureQueriesContext
from django.urls import path
from django_mysql.locks import Lock
from django_mysql.models import Model
from django_mysql.status import global_status

from tests.neighbours.site import in_threads, visit_all

ROWS = 30


class Item(Model):
    name = models.CharField(max_length=50)
    number = models.IntegerField(default=0)


def found(request: HttpRequest) -> HttpResponse:
    least = int(request.GET["n"])
    page = Item.objects.filter(number__gte=least).order_by("number").sql_calc_found_rows()[:3]
    return HttpResponse(str([[item.number for item in page], page.found_rows]))


def found_in_a_block(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        return found(request)


def rewritten(request: HttpRequest) -> HttpResponse:
    """What was sent to the server."""
    with CaptureQueriesContext(connections["default"]) as queries:
        list(Item.objects.filter(number=int(request.GET["n"])).label("probe").straight_join().sql_no_cache())
    return HttpResponse(str([query["sql"] for query in queries]))


def handled(request: HttpRequest) -> HttpResponse:
    """HANDLER ... OPEN, READ and CLOSE belong to a session."""
    with Item.objects.filter(number__gte=int(request.GET["n"])).order_by("id").handler() as handler:
        return HttpResponse(str([item.number for item in handler.read(limit=2)]))


def counted(request: HttpRequest) -> HttpResponse:
    """One after the other, by a lock of the session."""
    with Lock("probe", acquire_timeout=10):
        item = Item.objects.get(name="counter")
        item.number += 1
        item.save()
    return HttpResponse(str(Lock("other").is_held()))


def chunks(request: HttpRequest) -> HttpResponse:
    told = [
        [item.number for item in chunk]
        for chunk in Item.objects.exclude(name="counter").iter_smart_chunks(chunk_size=10, chunk_time=None)
    ]
    return HttpResponse(str(told))


urlpatterns = [
    path(view.__name__, view) for view in (found, found_in_a_block, rewritten, handled, counted, chunks)
]


def _rows() -> None:
    Item.objects.all().delete()
    Item.objects.bulk_create([Item(name="row", number=number) for number in range(ROWS)])


def probe_sql_calc_found_rows() -> Any:
    _rows()
    return visit_all([f"/found?n={number}" for number in range(ROWS)])


def probe_sql_calc_found_rows_in_a_block() -> Any:
    return visit_all([f"/found_in_a_block?n={number}" for number in range(ROWS)])


def probe_queries_are_rewritten_in_every_thread() -> Any:
    return visit_all([f"/rewritten?n={number}" for number in range(24)])


def probe_handler() -> Any:
    return visit_all([f"/handled?n={number}" for number in range(0, ROWS, 2)])


def probe_locks() -> Any:
    Item.objects.create(name="counter", number=0)
    return visit_all(["/counted"] * 24), Item.objects.get(name="counter").number


def probe_locks_outside_of_requests() -> Any:
    def work() -> int:
        with Lock("probe", acquire_timeout=10), transaction.atomic():
            item = Item.objects.get(name="counter")
            item.number += 1
            item.save()
        return global_status.get("Threads_connected") > 0

    return in_threads([work] * 12), Item.objects.get(name="counter").number


def probe_chunks() -> Any:
    return visit_all(["/chunks"] * 6)


def probe_the_servers_kind() -> Any:
    return connection.mysql_is_mariadb
