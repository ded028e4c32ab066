"""The test site's, the admin's, and the page of pools."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.urls import include, path

from tests.site import urls

urlpatterns = [
    *urls.urlpatterns,
    path("admin/", admin.site.urls),
    path("pools/", include("django_db_pooling.dashboard.urls")),
    path("static/<path:path>", serve, {"insecure": True}),
]
# The test site's handler404 queries, as a page with the visitor's name does.
