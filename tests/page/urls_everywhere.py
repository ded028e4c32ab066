"""The page as projects have it: included, in the admin, in a site of their own, behind a language."""

from __future__ import annotations

from django.conf.urls.i18n import i18n_patterns
from django.contrib import admin
from django.http import HttpRequest
from django.urls import include, path

from django_db_pooling.admin import ConnectionPoolAdmin
from django_db_pooling.models import ConnectionPool


class BossesOnly(admin.AdminSite):
    """Stricter than Django's."""

    def has_permission(self, request: HttpRequest) -> bool:
        return super().has_permission(request) and request.user.username.startswith("boss")  # type: ignore[union-attr]


bosses = BossesOnly(name="bosses")
bosses.register(ConnectionPool, ConnectionPoolAdmin)

urlpatterns = [
    path("admin/", admin.site.urls),
    path("bosses/", bosses.urls),
    path("pools/", include("django_db_pooling.dashboard.urls")),
    *i18n_patterns(path("pools/", include("django_db_pooling.dashboard.urls", namespace="translated"))),
]
