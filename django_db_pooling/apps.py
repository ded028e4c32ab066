"""``django_db_pooling`` in INSTALLED_APPS: system checks, and ``patch()`` for what has no wsgi.py."""

from __future__ import annotations

from django.apps import AppConfig


class DjangoDbPoolingConfig(AppConfig):
    name = "django_db_pooling"
    verbose_name = "Database connection pooling"

    def ready(self) -> None:
        from django_db_pooling import checks, pooling  # noqa: F401

        pooling.patch()
