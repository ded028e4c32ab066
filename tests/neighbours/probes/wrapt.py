from __future__ import annotations

import threading
from typing import Any

import wrapt
from django.db import connections, models
from django.db.utils import ConnectionHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.neighbours.site import visit_all

_seen: set[int] = set()


@wrapt.patch_function_wrapper(ConnectionHandler, "__getitem__")  # type: ignore[untyped-decorator]
def _traced(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    connection = wrapped(*args, **kwargs)
    _seen.add(threading.get_ident())
    return connection


class Item(models.Model):
    name = models.CharField(max_length=50)


def view(request: HttpRequest) -> HttpResponse:
    """Whether the tracer saw each of the three ways to a connection."""
    told = []
    for use in (
        lambda: connections["default"].cursor().close(),
        lambda: Item.objects.create(name="x"),
        lambda: list(Item.objects.all()[:1]),
    ):
        _seen.discard(threading.get_ident())
        use()
        told.append(threading.get_ident() in _seen)
    return HttpResponse(str(told))


urlpatterns = [path("view", view)]


def probe_the_tracer_sees_each_use() -> Any:
    return visit_all(["/view"] * 20), Item.objects.count()
