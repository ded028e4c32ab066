from __future__ import annotations

from typing import Any

from django.db import connection, models
from django.http import HttpRequest, HttpResponse
from django.urls import path
from psqlextra.fields import HStoreField
from psqlextra.models import PostgresModel
from psqlextra.query import ConflictAction

from tests.neighbours.site import in_threads, visit_all


class Item(PostgresModel):
    key = models.CharField(max_length=50, unique=True)
    number = models.IntegerField(default=0)
    text = HStoreField(default=dict)


def upsert(request: HttpRequest) -> HttpResponse:
    key = request.GET["key"]
    item = Item.objects.upsert_and_get(
        conflict_target=["key"], fields={"key": key, "text": {"en": key, "de": "x"}}
    )
    return HttpResponse(str(item.text))


def nothing(request: HttpRequest) -> HttpResponse:
    key = request.GET["key"]
    Item.objects.on_conflict(["key"], ConflictAction.NOTHING).insert(key=key, text={"en": "another"})
    return HttpResponse(str(Item.objects.get(key=key).text))


def bulk(request: HttpRequest) -> HttpResponse:
    rows = [{"key": f"{request.GET['key']}-{number}", "text": {"en": str(number)}} for number in range(3)]
    Item.objects.bulk_upsert(conflict_target=["key"], rows=rows)
    return HttpResponse(str(sorted(Item.objects.filter(text__en="1").values_list("key", flat=True))[:1]))


def keys(request: HttpRequest) -> HttpResponse:
    found = Item.objects.annotate(english=models.F("text__en")).filter(key=request.GET["key"])
    return HttpResponse(str(list(found.values("key", "english"))))


urlpatterns = [path(view.__name__, view) for view in (upsert, nothing, bulk, keys)]


def probe_upsert() -> Any:
    return visit_all([f"/upsert?key={number % 8}" for number in range(32)]), Item.objects.count()


def probe_conflicts_are_ignored() -> Any:
    return visit_all([f"/nothing?key={number % 8}" for number in range(16)])


def probe_bulk() -> Any:
    return [answer.status for answer in visit_all([f"/bulk?key=b{number % 4}" for number in range(12)])]


def probe_keys() -> Any:
    return visit_all([f"/keys?key={number % 8}" for number in range(16)])


def probe_outside_of_requests() -> Any:
    def work(number: int) -> Any:
        return Item.objects.insert_and_get(key=f"w{number}", text={"en": str(number)}).text

    return in_threads([lambda number=number: work(number) for number in range(12)])


def probe_its_extension_is_there() -> Any:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_extension WHERE extname = 'hstore'")
        return cursor.fetchone()
