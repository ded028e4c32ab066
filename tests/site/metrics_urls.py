"""The site's URLs, and ``metrics``."""

from __future__ import annotations

import os

from django.urls import include, path
from prometheus_client import Counter

from tests.site import metrics_view
from tests.site.urls import handler404 as handler404
from tests.site.urls import handler500 as handler500

# A metric of the site's own.
Counter("site_workers", "Workers that have answered.").inc()

urlpatterns = [path("", include("django_prometheus.urls")), path("", include("tests.site.urls"))]
if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    # django-prometheus has only the library's own metrics then.
    urlpatterns.insert(0, path("metrics", metrics_view.metrics))
