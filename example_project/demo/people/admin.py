"""The admin shows the directory, and changes nothing."""

from __future__ import annotations

from django.contrib import admin

from people.models import Person


@admin.register(Person)
class PersonAdmin(admin.ModelAdmin):
    list_display = ["uid", "name", "mail"]
    search_fields = ["uid", "name", "mail"]
    fields = ["uid", "name", "mail", "dn"]

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False

    def has_delete_permission(self, request, obj=None):
        return False
