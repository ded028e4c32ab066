from __future__ import annotations

from typing import Any

from django.contrib.postgres.fields import HStoreField
from django.core.management import call_command
from django.db import connection, models, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.neighbours.site import in_threads, visit_all


class Item(models.Model):
    attributes = HStoreField(default=dict)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=~models.Q(attributes={"for": "bidden"}), name="not_forbidden")
        ]


def write(request: HttpRequest) -> HttpResponse:
    item = Item.objects.create(attributes={"number": request.GET["n"]})
    return HttpResponse(str(Item.objects.get(id=item.id).attributes))


def in_a_block(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        Item.objects.create(attributes={"number": request.GET["n"]})
        return HttpResponse(str(Item.objects.filter(attributes__number=request.GET["n"]).first().attributes))


def raw(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::hstore -> 'a'", [{"a": request.GET["n"]}])
        return HttpResponse(str(cursor.fetchone()[0]))


def forbidden(request: HttpRequest) -> HttpResponse:
    Item.objects.create(attributes={"for": "bidden"})
    return HttpResponse("written")


urlpatterns = [path(view.__name__, view) for view in (write, in_a_block, raw, forbidden)]


def probe_what_the_migration_wrote() -> Any:
    return [item.attributes for item in Item.objects.all()]


def probe_requests() -> Any:
    return visit_all([f"/{view}?n={n}" for n in range(10) for view in ("write", "in_a_block", "raw")])


def probe_the_constraint() -> Any:
    return [(answer.status, answer.body[:60]) for answer in visit_all(["/forbidden"] * 4)]


def probe_outside_of_requests() -> Any:
    def work(number: int) -> Any:
        item = Item.objects.create(attributes={"job": str(number)})
        item.refresh_from_db()
        return item.attributes

    return in_threads([lambda number=number: work(number) for number in range(12)])


def probe_back_and_forth() -> Any:
    """Dropped and created again, the type has another number."""
    call_command("migrate", "probes", "zero", verbosity=0)
    call_command("migrate", "probes", verbosity=0)
    return probe_what_the_migration_wrote(), probe_requests(), probe_outside_of_requests()
