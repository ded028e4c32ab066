"""The page of pools in the admin, linked from its index for everybody who may use the admin."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest
from django.urls import URLPattern, URLResolver, include, path

from django_db_pooling.dashboard import views
from django_db_pooling.models import ConnectionPool


@admin.register(ConnectionPool)
class ConnectionPoolAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Its changelist is the page of pools. Nothing can be added, changed or deleted."""

    def get_urls(self) -> list[URLResolver | URLPattern]:  # type: ignore[override]
        # Without admin_view(), which loads the user and so waits for a connection. The views check the login.
        site = {"site": self.admin_site}
        options = self.opts
        return [
            path("", include("django_db_pooling.dashboard.urls"), site),
            # The name that the index links to. The URL before it answers.
            path("", views.index, site, name=f"{options.app_label}_{options.model_name}_changelist"),
        ]

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.admin_site.has_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: ConnectionPool | None = None) -> bool:
        return self.admin_site.has_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: ConnectionPool | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: ConnectionPool | None = None) -> bool:
        return False
