from __future__ import annotations

from typing import Any

from django.db import models
from django.urls import include, path
from rest_framework import exceptions, routers, serializers, viewsets
from rest_framework.decorators import action, api_view
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.test import APIClient, RequestsClient

from tests.neighbours.site import in_threads


class Item(models.Model):
    name = models.CharField(max_length=50)


class ItemSerializer(serializers.ModelSerializer):
    class Meta:
        model = Item
        fields = ["name"]


class Items(viewsets.ModelViewSet):
    queryset = Item.objects.order_by("id")
    serializer_class = ItemSerializer

    def perform_create(self, serializer: Any) -> None:
        """Refuses after it has written: ATOMIC_REQUESTS takes that back."""
        serializer.save()
        if serializer.validated_data["name"].startswith("bad"):
            raise exceptions.ValidationError("bad name")

    @action(detail=False)
    def count(self, request: Request) -> Response:
        return Response(Item.objects.count())


@api_view()
def fails(request: Request) -> Response:
    Item.objects.create(name="failed")
    raise exceptions.APIException("on purpose")


router = routers.SimpleRouter()
router.register("items", Items)
urlpatterns = [path("", include(router.urls)), path("fails", fails)]

BASE = "http://testserver"


def _session(number: int) -> Any:
    """One client's requests, one after the other; nobody closes a response."""
    client = RequestsClient()
    told = []
    for name in (f"good {number}", f"bad {number}"):
        response = client.post(f"{BASE}/items/", json={"name": name})
        told.append([response.status_code, response.json()])
    told.append(client.get(f"{BASE}/fails").status_code)
    names = [item["name"] for item in client.get(f"{BASE}/items/").json()]
    return [*told, f"good {number}" in names, f"bad {number}" in names, "failed" in names]


def probe_requests_client() -> Any:
    told = in_threads([lambda number=number: _session(number) for number in range(20)])
    return told, RequestsClient().get(f"{BASE}/items/count/").json()


def probe_api_client() -> Any:
    def session(number: int) -> Any:
        client = APIClient()
        made = client.post("/items/", {"name": f"api {number}"}, format="json")
        return (
            made.status_code,
            made.json(),
            client.post("/items/", {"name": "bad"}, format="json").status_code,
        )

    return in_threads([lambda number=number: session(number) for number in range(12)]), Item.objects.count()


def probe_a_block_after_a_request_that_nobody_closes() -> Any:
    """Its environ is collected at any later moment: not what this block holds is its own."""
    import gc

    from django.db import transaction

    def work(number: int) -> Any:
        client = RequestsClient()
        client.get(f"{BASE}/items/count/")
        with transaction.atomic():
            Item.objects.create(name=f"block {number}")
            del client
            gc.collect()
            Item.objects.create(name=f"block {number}")
        return Item.objects.filter(name=f"block {number}").count()

    return in_threads([lambda number=number: work(number) for number in range(10)])
