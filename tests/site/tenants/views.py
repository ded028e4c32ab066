"""Requests of tenants, each of which must see its own rows and nobody else's."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from django.db import connection, transaction
from django.db.models import F
from django.http import HttpRequest, HttpResponse
from django_tenants.middleware.main import TenantMainMiddleware
from django_tenants.utils import schema_context, tenant_context

from django_db_pooling import pooling
from tests.site.models import Row
from tests.site.tenants.models import Tenant

SCHEMAS = ("one", "two", "public")
SECONDS = 0.01
_tenants: dict[str, Tenant] = {}


class TenantOfQueryString(TenantMainMiddleware):
    """The host name would be the same for all. Requests that name no tenant have no use for the database."""

    def process_request(self, request: HttpRequest) -> Any:
        return super().process_request(request) if "tenant" in request.GET else None

    @staticmethod
    def hostname_from_request(request: HttpRequest) -> str:
        return request.GET["tenant"]

    def get_tenant(self, domain_model: Any, hostname: str) -> Tenant:
        """From the database, or, as many do, from a cache: then the view's statement is the first."""
        if hostname not in _tenants or random.random() < 0.5:
            _tenants[hostname] = super().get_tenant(domain_model, hostname)
        return _tenants[hostname]


class Crossing(Exception):
    """Somebody has seen what isn't theirs."""


def tenant(request: HttpRequest, how: str) -> HttpResponse:
    """Look at the rows in one way, wait, and look again."""
    mine = request.GET["tenant"]
    way = WAYS[how] if how in WAYS else random.choice(list(WAYS.values()))
    way(mine)
    time.sleep(SECONDS * random.random())
    plain(mine)
    return HttpResponse(mine)


def expect(found: set[str], schema: str, how: str) -> None:
    if found != {schema}:
        raise Crossing(f"{how}: {sorted(found)} instead of {schema}")


def plain(schema: str) -> None:
    expect(set(Row.objects.values_list("text", flat=True)), schema, "plain")


def path(schema: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        expect({cursor.fetchone()[0]}, schema, "path")


def server_side(schema: str) -> None:
    """A cursor of the server's, as the first thing of all."""
    found = set()
    for row in Row.objects.iterator(chunk_size=2):
        found.add(row.text)
        time.sleep(SECONDS / 5)
    expect(found, schema, "server_side")


def atomic(schema: str) -> None:
    with transaction.atomic():
        plain(schema)
        time.sleep(SECONDS)
        if Row.objects.filter(text=schema).update(counter=F("counter") + 1) != 2:
            raise Crossing(f"atomic: not the rows of {schema}")
        server_side(schema)


def rolled_back(schema: str) -> None:
    """PostgreSQL takes a SET back with the transaction that it was in."""
    for _ in range(2):
        with transaction.atomic():
            with transaction.atomic():
                plain(schema)
                transaction.set_rollback(True)
            plain(schema)
            transaction.set_rollback(True)
        plain(schema)


def switch(schema: str) -> None:
    before = connection.tenant
    for other in random.sample(SCHEMAS, 2):
        connection.set_schema(other)
        plain(other)
        time.sleep(SECONDS)
        path(other)
    connection.set_tenant(before)


def contexts(schema: str) -> None:
    one, two = random.sample(SCHEMAS, 2)
    with schema_context(one):
        server_side(one)
        with tenant_context(Tenant(schema_name=two)):
            time.sleep(SECONDS)
            plain(two)
        path(one)


def released(schema: str) -> None:
    """The connection is given back by hand, and what it has been told with it."""
    plain(schema)
    pooling.release()
    time.sleep(SECONDS)
    path(schema)
    connection.close()
    server_side(schema)


def public_first(schema: str) -> None:
    """As the middleware does."""
    connection.set_schema_to_public()
    plain("public")
    connection.set_schema(schema)
    path(schema)


WAYS: dict[str, Callable[[str], None]] = {
    way.__name__: way
    for way in (plain, path, server_side, atomic, rolled_back, switch, contexts, released, public_first)
}
