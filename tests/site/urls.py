"""Which view answers what; an error is answered with its text, so that a client can say what went wrong."""

from __future__ import annotations

import sys

from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.site import views

urlpatterns = [
    path("one", views.one),
    path("token", views.token),
    path("sleep", views.sleep),
    path("atomic", views.atomic),
    path("hold", views.hold),
    path("nothing", views.nothing),
    path("stream", views.stream),
    path("spawn", views.spawn),
    path("die", views.die),
    path("pool.json", views.pool),
]


def handler500(request: HttpRequest) -> HttpResponse:
    kind, error, _ = sys.exc_info()
    name = kind.__name__ if kind else "no exception"
    return HttpResponse(f"{name}: {error}", status=500, content_type="text/plain; charset=utf-8")
