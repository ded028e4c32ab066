"""The site's URLs, and ``metrics``."""

from __future__ import annotations

from django.urls import include, path

from tests.site.urls import handler404 as handler404
from tests.site.urls import handler500 as handler500

urlpatterns = [path("", include("django_prometheus.urls")), path("", include("tests.site.urls"))]
