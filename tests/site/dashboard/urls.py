"""The test site's, the admin's, and the page of pools."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from prometheus_client import CollectorRegistry, generate_latest

from django_db_pooling.metrics import prometheus
from tests.site import urls

_pools = CollectorRegistry()
prometheus.register(_pools)


def metrics(request: HttpRequest) -> HttpResponse:
    return HttpResponse(generate_latest(_pools), content_type="text/plain")


urlpatterns = [
    *urls.urlpatterns,
    path("admin/", admin.site.urls),
    path("metrics", metrics),
    path("pools/", include("django_db_pooling.dashboard.urls")),
    path("static/<path:path>", serve, {"insecure": True}),
]
# The test site's handler404 queries, as a page with the visitor's name does.
