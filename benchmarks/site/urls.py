"""The URLs. An error is answered with its text, so that the load generator can count it."""

from __future__ import annotations

import sys

from django.http import HttpRequest, HttpResponse
from django.urls import path

from benchmarks.site import views

urlpatterns = [
    path("nothing", views.nothing),
    path("one", views.one),
    path("mixed", views.mixed),
    path("wait", views.wait),
    path("user", views.user),
    path("gap", views.gap),
]


def handler500(request: HttpRequest) -> HttpResponse:
    kind, error, _ = sys.exc_info()
    name = kind.__name__ if kind else "no exception"
    return HttpResponse(f"{name}: {error}", status=500, content_type="text/plain; charset=utf-8")
