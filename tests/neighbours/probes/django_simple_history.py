from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path
from simple_history.models import HistoricalRecords
from simple_history.utils import bulk_create_with_history

from tests.neighbours.site import in_threads, visit_all


class Item(models.Model):
    name = models.CharField(max_length=50)
    history = HistoricalRecords()


def write(request: HttpRequest) -> HttpResponse:
    request.user, _ = User.objects.get_or_create(username=f"user {int(request.GET['n']) % 3}")
    item = Item.objects.create(name=request.GET["n"])
    item.name += "!"
    item.save()
    return HttpResponse(
        str([[one.name, one.history_type, str(one.history_user)] for one in item.history.all()])
    )


def rolled_back(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        Item.objects.create(name=f"back {request.GET['n']}")
        transaction.set_rollback(True)
    return HttpResponse("rolled back")


def bulk(request: HttpRequest) -> HttpResponse:
    items = [Item(name=f"bulk {request.GET['n']} {number}") for number in range(3)]
    made = bulk_create_with_history(items, Item)
    return HttpResponse(str(Item.history.filter(id__in=[item.pk for item in made]).count()))


def delete(request: HttpRequest) -> HttpResponse:
    item = Item.objects.create(name=f"gone {request.GET['n']}")
    old = item.pk
    item.delete()
    return HttpResponse(str(list(Item.history.filter(id=old).values_list("history_type", flat=True))))


urlpatterns = [path(view.__name__, view) for view in (write, rolled_back, bulk, delete)]


def _history() -> Any:
    rows = Item.history.values_list("name", "history_type", "history_user__username")
    return sorted(map(str, rows))


def probe_each_change_has_its_row() -> Any:
    for number in range(3):
        User.objects.get_or_create(username=f"user {number}")
    paths = [f"/{view}?n={n}" for n in range(10) for view in ("write", "rolled_back", "bulk", "delete")]
    return visit_all(paths), _history()


def probe_outside_of_requests() -> Any:
    def work(number: int) -> Any:
        item = Item.objects.create(name=f"job {number}")
        item.name += "!"
        item.save()
        return str(item.history.as_of(item.history.first().history_date).name)

    return in_threads([lambda number=number: work(number) for number in range(12)]), _history()
