"""The page of pools in the admin: whoever may use the admin finds it in the index."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest
from django.urls import URLPattern, URLResolver, include, path

from django_db_pooling.dashboard import views
from django_db_pooling.models import ConnectionPool


@admin.register(ConnectionPool)
class ConnectionPoolAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The page is its list. Nothing can be added, changed or deleted, and nothing has a history."""

    def get_urls(self) -> list[URLResolver | URLPattern]:  # type: ignore[override]
        # Without admin_view(), which asks for the user and so waits for a connection: the views see to that.
        site = {"site": self.admin_site}
        options = self.opts
        return [
            path("", include("django_db_pooling.dashboard.urls"), site),
            # What the index links to. The one before it answers.
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
