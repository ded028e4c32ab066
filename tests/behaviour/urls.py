"""Views for the test client."""

from __future__ import annotations

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.behaviour.models import Note


def count(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(Note.objects.count()))


def add(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        Note.objects.create(text=request.GET["text"])
    return HttpResponse("added")


def nothing(request: HttpRequest) -> HttpResponse:
    return HttpResponse("no query")


urlpatterns = [path("count", count), path("add", add), path("nothing", nothing)]
