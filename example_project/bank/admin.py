"""The admin shows everything, and can change what doesn't affect balances."""

from __future__ import annotations

from django.contrib import admin

from bank.models import Account, Customer, Transfer
from bank.templatetags.money import money

admin.site.site_header = admin.site.site_title = "Tuppence Bank"


@admin.register(Customer)
class CustomerAdmin(admin.ModelAdmin):
    list_display = ["name", "town"]
    list_filter = ["town"]
    search_fields = ["name"]


@admin.register(Account)
class AccountAdmin(admin.ModelAdmin):
    list_display = ["number", "customer", "kind", "holds"]
    list_filter = ["kind"]
    list_select_related = ["customer"]
    search_fields = ["number", "customer__name"]
    autocomplete_fields = ["customer"]
    exclude = ["balance"]

    @admin.display(description="balance", ordering="balance")
    def holds(self, account: Account) -> str:
        return money(account.balance)

    def get_readonly_fields(self, request, obj=None):
        return [] if obj is None else ["opening", "holds"]

    def save_model(self, request, obj, form, change):
        if change:
            obj.save(update_fields=form.changed_data)
        else:
            obj.balance = obj.opening
            obj.save()


@admin.register(Transfer)
class TransferAdmin(admin.ModelAdmin):
    list_display = ["made_at", "source", "target", "worth", "reference"]
    list_select_related = ["source", "target"]
    search_fields = ["reference", "source__number", "target__number"]
    date_hierarchy = "made_at"

    @admin.display(description="amount", ordering="amount")
    def worth(self, transfer: Transfer) -> str:
        return money(transfer.amount)

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False

    def has_delete_permission(self, request, obj=None):
        return False
