from __future__ import annotations

from typing import Any

import pglock
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.neighbours.site import in_threads, visit_all


class Item(models.Model):
    number = models.IntegerField(default=0)


def _count() -> None:
    """Read and write, which is right only if nobody else does meanwhile."""
    item = Item.objects.get(id=1)
    item.number += 1
    item.save()


def session(request: HttpRequest) -> HttpResponse:
    with pglock.advisory("probe"):
        _count()
    return HttpResponse("counted")


def xact(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        pglock.advisory("probe", xact=True).acquire()
        _count()
    return HttpResponse("counted")


def table(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        pglock.model(Item)
        _count()
    return HttpResponse("counted")


def timeout(request: HttpRequest) -> HttpResponse:
    with pglock.timeout(seconds=9), transaction.atomic():
        _count_locked()
    return HttpResponse("counted")


def _count_locked() -> None:
    item = Item.objects.select_for_update().get(id=1)
    item.number += 1
    item.save()


urlpatterns = [path(view.__name__, view) for view in (session, xact, table, timeout)]


def _number() -> int:
    return Item.objects.get(id=1).number


def probe_a_lock_of_the_session() -> Any:
    Item.objects.create(id=1)
    return visit_all(["/session"] * 24), _number()


def probe_a_lock_of_the_transaction() -> Any:
    return visit_all(["/xact"] * 24), _number()


def probe_a_lock_of_the_table() -> Any:
    return visit_all(["/table"] * 12), _number()


def probe_a_timeout() -> Any:
    return visit_all(["/timeout"] * 12), _number()


def probe_outside_of_requests() -> Any:
    def work() -> str:
        with pglock.advisory("probe"):
            _count()
        return "counted"

    return in_threads([work] * 16), _number()
