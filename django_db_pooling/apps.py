"""``django_db_pooling`` in INSTALLED_APPS: system checks, and ``patch()`` for what has no wsgi.py."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.conf import settings

from django_db_pooling import conf
from django_db_pooling.drivers import introduction


class DjangoDbPoolingConfig(AppConfig):
    name = "django_db_pooling"
    verbose_name = "Database connection pooling"

    def __init__(self, app_name: str, app_module: Any) -> None:
        super().__init__(app_name, app_module)
        # Not in ready(): models are imported before, and for them Django advises to install another driver.
        conf.reject(introduction.problems(settings.DATABASES))

    def ready(self) -> None:
        from django_db_pooling import checks, pooling  # noqa: F401

        pooling.patch()
