"""Settings of a site that shows its figures to Prometheus, as django-prometheus does it."""

from __future__ import annotations

from tests.site.settings import *  # noqa: F403
from tests.site.settings import INSTALLED_APPS as OTHERS

INSTALLED_APPS = [*OTHERS, "django_prometheus"]
ROOT_URLCONF = "tests.site.metrics_urls"
# Of django-prometheus: it would ask the database at the start.
PROMETHEUS_EXPORT_MIGRATIONS = False
DB_POOL_METRICS = ["prometheus"]
