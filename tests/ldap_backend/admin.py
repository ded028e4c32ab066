"""The admin's pages of directory models."""

from __future__ import annotations

from django.contrib import admin

from tests.ldap_backend.models import User


@admin.register(User)
class UserAdmin(admin.ModelAdmin):
    list_display = ["uid", "cn", "number"]
    search_fields = ["uid"]
    exclude = ["dn"]
