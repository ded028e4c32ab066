from __future__ import annotations

import threading
from typing import Any

from django.db import connection, connections, models
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django_dbconn_retry import post_reconnect, pre_reconnect

from tests.neighbours.site import in_threads, visit, visit_all

RIGHT = connections.settings["default"]["PASSWORD"]
_reconnects: list[int] = []


class Item(models.Model):
    name = models.CharField(max_length=50)


def _refresh(sender: Any, dbwrapper: Any, **kwargs: Any) -> None:
    """As a package does that fetches new credentials when the old ones are refused."""
    _reconnects.append(threading.get_ident())
    dbwrapper.settings_dict["PASSWORD"] = connections.settings["default"]["PASSWORD"] = RIGHT


pre_reconnect.connect(_refresh)
post_reconnect.connect(_refresh)


def page(request: HttpRequest) -> HttpResponse:
    item = Item.objects.create(name=request.GET["name"])
    return HttpResponse(str(Item.objects.filter(id=item.id).count()))


urlpatterns = [path("page", page)]


def _expire() -> None:
    """The password that everybody has is wrong, and no connection is open."""
    connection.close()
    connections.settings["default"]["PASSWORD"] = connection.settings_dict["PASSWORD"] = "expired"
    _reconnects.clear()


def probe_expired_credentials_are_replaced() -> Any:
    _expire()
    return visit_all([f"/page?name={number}" for number in range(20)]), bool(_reconnects)


def probe_outside_of_requests() -> Any:
    _expire()
    told = in_threads([lambda: Item.objects.filter(name="1").count()] * 12)
    return told, bool(_reconnects)


def probe_killed_connections() -> Any:
    """Ended by the server between two requests of the same thread."""

    def session() -> Any:
        first = visit("/page?name=before")
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        connection.close()
        return first, visit("/page?name=after")

    return [session() for _ in range(4)]
