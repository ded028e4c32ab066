from __future__ import annotations

import threading
from typing import Any

from django.db import connections, models
from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.neighbours.probes.tracer import after, before, trace
from tests.neighbours.site import visit_all

trace(after)


class Item(models.Model):
    name = models.CharField(max_length=50)


def view(request: HttpRequest) -> HttpResponse:
    """Whether the tracers saw each of the three ways to a connection."""
    told = []
    for use in (
        lambda: connections["default"].cursor().close(),
        lambda: Item.objects.create(name="x"),
        lambda: list(Item.objects.all()[:1]),
    ):
        me = threading.get_ident()
        for seen in (before, after):
            seen.discard(me)
        use()
        told.append((me in before, me in after))
    return HttpResponse(str(told))


urlpatterns = [path("view", view)]


def probe_tracers_see_each_use() -> Any:
    return visit_all(["/view"] * 20), Item.objects.count()
