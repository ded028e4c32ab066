from __future__ import annotations

from typing import Any

import pghistory
import pgtrigger
from django.apps import apps
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.neighbours.site import in_threads, visit_all


@pghistory.track(pghistory.InsertEvent(), pghistory.UpdateEvent(), pghistory.ManualEvent("told"))
class Item(models.Model):
    name = models.CharField(max_length=50)

    class Meta:
        triggers = [pgtrigger.Protect(name="no_deletes", operation=pgtrigger.Delete)]


def write(request: HttpRequest) -> HttpResponse:
    item = Item.objects.create(name=request.GET["name"])
    item.name += "!"
    item.save()
    return HttpResponse("written")


def rolled_back(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        Item.objects.create(name=request.GET["name"])
        transaction.set_rollback(True)
    return HttpResponse("rolled back")


def delete(request: HttpRequest) -> HttpResponse:
    Item.objects.all().delete()
    return HttpResponse("deleted")


def delete_nevertheless(request: HttpRequest) -> HttpResponse:
    item = Item.objects.create(name="to be deleted")
    with pgtrigger.ignore("probes.Item:no_deletes"):
        item.delete()
    try:
        Item.objects.filter(name="1!").delete()
    except Exception as error:
        return HttpResponse(f"then {type(error).__name__}")
    return HttpResponse("deleted")


def tell(request: HttpRequest) -> HttpResponse:
    item = Item.objects.filter(name="1!").first()
    event = pghistory.create_event(item, label="told")
    return HttpResponse(f"{event.name} {event.pgh_label}")


def tell_in_a_block(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        return tell(request)


urlpatterns = [
    path(view.__name__, view)
    for view in (write, rolled_back, delete, delete_nevertheless, tell, tell_in_a_block)
]


def _events(name: str) -> Any:
    """With what the context says of the request or the block."""
    model = apps.get_model("probes", "ItemEvent")
    return sorted(
        (event.pgh_label, event.name, str(event.pgh_context and sorted(event.pgh_context.metadata.items())))
        for event in model.objects.select_related("pgh_context").filter(name__startswith=name)
    )


def probe_triggers_are_installed() -> Any:
    return visit_all(["/delete"] * 4), Item.objects.count()


def probe_each_change_has_its_requests_context() -> Any:
    paths = [f"/{view}?name={number}" for number in range(16) for view in ("write", "rolled_back")]
    return visit_all(paths, headers={"X-Forwarded-For": "x"}), _events("")


def probe_protected_rows() -> Any:
    paths = ["/delete", "/delete_nevertheless"] * 8
    return [(answer.status, answer.body[:60]) for answer in visit_all(paths)]


def probe_manual_events_in_requests() -> Any:
    return visit_all(["/tell"] * 12)


def probe_manual_events_in_blocks() -> Any:
    def work(number: int) -> Any:
        with transaction.atomic():
            item = Item.objects.create(name=f"block {number}")
            return pghistory.create_event(item, label="told").name

    outside = in_threads([lambda number=number: work(number) for number in range(8)])
    return visit_all(["/tell_in_a_block"] * 12), outside, _events("block")


def probe_contexts_outside_of_requests() -> Any:
    def work(number: int) -> str:
        with pghistory.context(job=number):
            Item.objects.create(name=f"job {number}")
            with pghistory.context(inner=number):
                Item.objects.filter(name=f"job {number}").update(name=f"job {number} is done")
        return "done"

    return in_threads([lambda number=number: work(number) for number in range(16)]), _events("job")


def probe_manual_events_outside_of_requests() -> Any:
    def work(number: int) -> Any:
        item = Item.objects.create(name=f"told {number}")
        return pghistory.create_event(item, label="told").name

    return in_threads([lambda number=number: work(number) for number in range(8)]), _events("told")
