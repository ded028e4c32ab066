from __future__ import annotations

from typing import Any

import reversion
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path
from reversion.models import Revision, Version

from tests.neighbours.site import in_threads, visit_all


@reversion.register()
class Item(models.Model):
    name = models.CharField(max_length=50)


def write(request: HttpRequest) -> HttpResponse:
    item = Item.objects.create(name=request.GET["n"])
    reversion.set_comment(f"comment of {request.GET['n']}")
    with transaction.atomic():
        item.name += "!"
        item.save()
    return HttpResponse(item.name)


def fails(request: HttpRequest) -> HttpResponse:
    Item.objects.create(name=f"failed {request.GET['n']}")
    raise ValueError("on purpose")


def inner_fails(request: HttpRequest) -> HttpResponse:
    Item.objects.create(name=f"outer {request.GET['n']}")
    try:
        with transaction.atomic(), reversion.create_revision():
            Item.objects.create(name=f"inner {request.GET['n']}")
            raise ValueError("on purpose")
    except ValueError:
        return HttpResponse("inner failed")


def revert(request: HttpRequest) -> HttpResponse:
    with reversion.create_revision():
        item = Item.objects.create(name=f"first {request.GET['n']}")
    with reversion.create_revision():
        item.name = "second"
        item.save()
    return HttpResponse(item.name)


VIEWS = (write, fails, inner_fails, revert)
urlpatterns = [path(view.__name__, view) for view in VIEWS]


def _told() -> Any:
    comments = sorted(Revision.objects.values_list("comment", flat=True))
    names = sorted(Item.objects.values_list("name", flat=True))
    fields = sorted(version.field_dict["name"] for version in Version.objects.all())
    return names, comments, fields


def probe_revisions_of_requests() -> Any:
    paths = [f"/{view.__name__}?n={n}" for n in range(10) for view in VIEWS]
    return visit_all(paths, method="POST"), _told()


def probe_reverted_outside_of_requests() -> Any:
    def work(number: int) -> Any:
        with reversion.create_revision():
            item = Item.objects.create(name=f"job {number}")
        with reversion.create_revision():
            item.name = "changed"
            item.save()
        oldest = Version.objects.get_for_object(item).last()
        oldest.revision.revert()
        item.refresh_from_db()
        return item.name

    return in_threads([lambda number=number: work(number) for number in range(12)]), _told()
