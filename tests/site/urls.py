"""Which view answers what; an error is answered with its text, so that a client can say what went wrong."""

from __future__ import annotations

import sys

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import path, re_path

from tests.site import async_views, attack_views, busy, fault_views, thread_views, views

urlpatterns = [
    path("one", views.one),
    path("token", views.token),
    path("tls", views.tls),
    path("sleep", views.sleep),
    path("atomic", views.atomic),
    path("hold", views.hold),
    re_path(r"^hold/[\s\S]*", views.hold),
    path("nothing", views.nothing),
    path("stream", views.stream),
    path("spawn", views.spawn),
    path("die", views.die),
    path("pool.json", views.pool),
    path("warm", views.warm),
    path("spin", fault_views.spin),
    path("occupy", fault_views.occupy),
    path("nested", fault_views.nested),
    path("transaction", fault_views.in_transaction),
    path("mixed", fault_views.mixed),
    path("error", fault_views.error),
    path("interrupted", fault_views.interrupted),
    path("left_open", fault_views.left_open),
    path("session", fault_views.session),
    path("recycle", fault_views.recycle),
    path("order", fault_views.order),
    path("resize", fault_views.resize),
    path("async/orm", async_views.orm),
    path("async/token", async_views.token),
    path("async/gather", async_views.gather),
    path("async/deadline", async_views.deadline),
    path("async/stream", async_views.stream),
    path("async/sleep", async_views.sleep),
    path("async/background", async_views.background),
    path("async/to_thread", async_views.to_thread),
    path("attack", attack_views.attack),
    path("attack/as_new", attack_views.as_new),
    path("attack/counts.json", attack_views.counts),
    path("threads/of_view", thread_views.of_view),
    path("threads/that_stay", thread_views.that_stay),
]

handler404 = views.not_found


def handler500(request: HttpRequest) -> HttpResponseBase:
    if "page" in request.GET:
        return busy.error_page(request)
    kind, error, _ = sys.exc_info()
    name = kind.__name__ if kind else "no exception"
    return HttpResponse(f"{name}: {error}", status=500, content_type="text/plain; charset=utf-8")
