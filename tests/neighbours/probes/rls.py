from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connection, models
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django_rls_tenants import RLSProtectedModel, tenant_context
from django_rls_tenants.tenants.context import admin_context

from tests.neighbours.site import in_threads, visit_all

TENANTS = (1, 2, 3)


class Tenant(models.Model):
    name = models.CharField(max_length=50)


class Note(RLSProtectedModel):
    text = models.CharField(max_length=50)


class _User:
    """Of the tenant that the request names; without one nobody."""

    is_tenant_admin = False

    def __init__(self, tenant: str | None) -> None:
        self.is_authenticated = tenant is not None
        self.rls_tenant_id = None if tenant is None else int(tenant)


def as_tenant(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    def middleware(request: HttpRequest) -> HttpResponse:
        request.user = _User(request.GET.get("tenant"))
        return get_response(request)

    return middleware


def notes(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(sorted(Note.objects.values_list("text", flat=True))))


def raw(request: HttpRequest) -> HttpResponse:
    """What the database itself lets through."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT text FROM probes_note ORDER BY text")
        return HttpResponse(str([text for (text,) in cursor.fetchall()]))


def write(request: HttpRequest) -> HttpResponse:
    tenant = int(request.GET["tenant"])
    Note.objects.create(text=f"{request.GET['text']} of {tenant}", tenant_id=tenant)
    return HttpResponse("written")


def write_for_another(request: HttpRequest) -> HttpResponse:
    Note.objects.create(text="stolen", tenant_id=int(request.GET["tenant"]) % 3 + 1)
    return HttpResponse("written")


def fails(request: HttpRequest) -> HttpResponse:
    """No response that the middleware could clear up after."""
    raise SystemError("on purpose")


urlpatterns = [path(view.__name__, view) for view in (notes, raw, write, write_for_another, fails)]


def _tenants() -> None:
    for number in TENANTS:
        Tenant.objects.get_or_create(id=number, defaults={"name": str(number)})


def probe_each_tenant_writes_its_own() -> Any:
    _tenants()
    paths = [f"/write?tenant={number}&text={text}" for text in "abcd" for number in TENANTS]
    return visit_all(paths), visit_all([f"/notes?tenant={number}" for number in TENANTS])


def probe_and_sees_its_own() -> Any:
    paths = [f"/{view}?tenant={number}" for _ in range(6) for view in ("notes", "raw") for number in TENANTS]
    return visit_all(paths)


def probe_nobody_sees_nothing() -> Any:
    paths = ["/notes?tenant=1", "/raw", "/fails?tenant=2", "/raw", "/notes"] * 6
    return visit_all(paths)


def probe_what_belongs_to_others_is_refused() -> Any:
    paths = [f"/write_for_another?tenant={number}" for _ in range(4) for number in TENANTS]
    return [(answer.status, answer.body[:60]) for answer in visit_all(paths)]


def probe_contexts_outside_of_requests() -> Any:
    def of(number: int) -> Any:
        from django.db import transaction

        with transaction.atomic(), tenant_context(number):
            return sorted(Note.objects.values_list("text", flat=True))

    def of_all() -> int:
        from django.db import transaction

        with transaction.atomic(), admin_context():
            return Note.objects.count()

    return in_threads([lambda number=number: of(number) for number in TENANTS * 4] + [of_all] * 4)
