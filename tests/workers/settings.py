"""The settings of tests/site, with the queues of those libraries that have theirs here."""

from __future__ import annotations

import os

from tests.site.settings import *  # noqa: F403
from tests.site.settings import INSTALLED_APPS

REDIS = os.environ["SITE_REDIS"]

if "django_celery_results" in INSTALLED_APPS:
    CELERY_RESULT_BACKEND = "django-db"
if "django_q" in INSTALLED_APPS:
    Q_CLUSTER = {"name": "site", "workers": 2, "redis": REDIS, "timeout": 60, "retry": 120, "poll": 1}
if "django_tasks_db" in INSTALLED_APPS:
    TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
