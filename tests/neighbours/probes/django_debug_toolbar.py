from __future__ import annotations

import re
from typing import Any

from django.db import connection, models, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from tests.neighbours.site import Answer, visit, visit_all


class Item(models.Model):
    name = models.CharField(max_length=50)


def always(request: HttpRequest) -> bool:
    return True


def page(request: HttpRequest) -> HttpResponse:
    name = request.GET["name"]
    with transaction.atomic():
        Item.objects.create(name=name)
        Item.objects.filter(name=name).update(name=f"{name}!")
    rows = [item.name for item in Item.objects.filter(name__startswith=f"{name}!").iterator(chunk_size=1)]
    rows += [
        item.name for item in Item.objects.raw("SELECT * FROM probes_item WHERE name = %s", [f"{name}!"])
    ]
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM probes_item WHERE name = %s", [f"{name}!"])
        rows += [row[0] for row in cursor]
        rows.append(cursor.rowcount if connection.vendor != "sqlite" else 1)
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    rows += cursor.fetchone()
    return HttpResponse(f"<html><body>{rows}</body></html>")


def __getattr__(name: str) -> Any:
    """The URLs, when all apps are there: the toolbar's look at their models."""
    if name != "urlpatterns":
        raise AttributeError(name)
    return [path("page", page), path("__debug__/", include("debug_toolbar.urls"))]


def _told(answer: Answer) -> Any:
    """The page's own rows, and how many statements the toolbar counted."""
    if answer.status == 500:
        return answer
    rows = re.search(r"<body>(.*?\])", answer.body, re.DOTALL)
    counted = re.search(r"(\d+) quer(?:y|ies)", answer.body)
    return answer.status, rows and rows[1], counted and counted[1]


def probe_the_panel_counts_the_statements() -> Any:
    return [_told(answer) for answer in visit_all([f"/page?name={number}" for number in range(24)])]


def probe_the_panel_shows_them() -> Any:
    page = visit("/page?name=shown").body
    key = re.search(r'data-(?:store|request)-id="([^"]+)"', page)
    if key is None:
        return "no toolbar"
    path = f"/__debug__/render_panel/?store_id={key[1]}&request_id={key[1]}&panel_id=SQLPanel"
    panel = visit(path).body
    return [panel.count(word) for word in ("INSERT", "UPDATE", "SELECT", "ROLLBACK")]
