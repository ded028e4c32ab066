from __future__ import annotations

from typing import Any

from django.db import connection, models
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path

from tests.neighbours.site import visit_all


class Item(models.Model):
    name = models.CharField(max_length=50)


def write(request: HttpRequest) -> HttpResponse:
    Item.objects.create(name=request.GET["name"])
    return HttpResponse("written")


def write_raw(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO probes_item (name) VALUES (%s)", [request.GET["name"]])
    return HttpResponse("written")


def read(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(Item.objects.count()))


urlpatterns = [path("write", write), path("raw", write_raw), path("read", read)]

PATHS = [f"/{view}?name={number}" for number in range(12) for view in ("write", "raw", "read")]


def _visit() -> Any:
    answers = visit_all(PATHS)
    kinds = sorted(
        {
            (path.split("?")[0], answer.status, answer.body[:40])
            for path, answer in zip(PATHS, answers, strict=True)
        }
    )
    return kinds, Item.objects.count()


def probe_writes_are_refused_in_every_thread() -> Any:
    with override_settings(DJANGO_READ_ONLY=True):
        return _visit()


def probe_and_allowed_afterwards() -> Any:
    answers = visit_all([path for path in PATHS if "read" not in path])
    return answers, Item.objects.count()
