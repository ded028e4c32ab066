"""The only way to move money."""

from __future__ import annotations

from django.db import transaction

from bank.models import Account, Transfer


class TransferRefused(Exception):
    """Its text is shown to the customer."""


def transfer(source_id: int, target_id: int, amount: int, reference: str = "") -> Transfer:
    if source_id == target_id:
        raise TransferRefused("Source and target are the same account.")
    if amount < 1:
        raise TransferRefused("The amount must be at least one cent.")
    with transaction.atomic():
        # Always in the order of the key: two opposite transfers then queue instead of deadlocking.
        locked = Account.objects.select_for_update().filter(pk__in=(source_id, target_id)).order_by("pk")
        accounts = {account.pk: account for account in locked}
        if len(accounts) < 2:
            raise TransferRefused("There is no such account.")
        source, target = accounts[source_id], accounts[target_id]
        if source.balance < amount:
            raise TransferRefused(f"{source.number} does not hold that much.")
        source.balance -= amount
        target.balance += amount
        source.save(update_fields=["balance"])
        target.save(update_fields=["balance"])
        return Transfer.objects.create(source=source, target=target, amount=amount, reference=reference)
