from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connection, models, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django_tenants.models import DomainMixin, TenantMixin
from django_tenants.utils import schema_context

from tests.neighbours.site import in_threads, visit

TENANTS = ("one", "two", "three")


class Client(TenantMixin):
    auto_create_schema = True


class Domain(DomainMixin):
    pass


class Item(models.Model):
    name = models.CharField(max_length=50)


def main_middleware(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    """Its middleware, which can't be imported before the apps are there."""
    from django_tenants.middleware.main import TenantMainMiddleware

    return TenantMainMiddleware(get_response)


def items(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{connection.schema_name}: {sorted(Item.objects.values_list('name', flat=True))}")


def write(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        Item.objects.create(name=f"{request.GET['name']} of {connection.schema_name}")
    return HttpResponse("written")


def others(request: HttpRequest) -> HttpResponse:
    told = []
    for name in TENANTS:
        with schema_context(name):
            told.append([name, Item.objects.count()])
    return HttpResponse(f"{told} {connection.schema_name}")


def found(request: HttpRequest) -> HttpResponse:
    """A new tenant, with its schema, in a request."""
    _create(request.GET["name"])
    return HttpResponse("founded")


urlpatterns = [path(view.__name__, view) for view in (items, write, others, found)]


def _create(name: str) -> None:
    tenant = Client(schema_name=name)
    tenant.save(verbosity=0)
    Domain.objects.create(domain=name, tenant=tenant, is_primary=True)


def _as(tenant: str, path: str) -> Callable[[], Any]:
    return lambda: visit(path, headers={"Host": tenant})


def probe_tenants_are_created() -> Any:
    _create("public")
    for name in TENANTS:
        _create(name)
    return list(Client.objects.order_by("schema_name").values_list("schema_name", flat=True))


def probe_each_writes_into_its_schema() -> Any:
    return in_threads([_as(name, f"/write?name={number}") for number in range(8) for name in TENANTS])


def probe_and_sees_its_own() -> Any:
    return in_threads([_as(name, "/items") for _ in range(8) for name in (*TENANTS, "public", "nobody")])


def probe_contexts() -> Any:
    return in_threads([_as(name, "/others") for _ in range(6) for name in TENANTS])


def probe_a_request_creates_one() -> Any:
    return visit("/found?name=four", headers={"Host": "public"}), in_threads([_as("four", "/items")] * 4)


def probe_contexts_in_threads_without_a_request() -> Any:
    def count(name: str) -> int:
        with schema_context(name):
            return Item.objects.count()

    return in_threads([lambda name=name: count(name) for name in TENANTS * 5])
