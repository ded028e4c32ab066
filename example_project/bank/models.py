"""Customers, their accounts, and the transfers between these. Amounts are whole cents."""

from __future__ import annotations

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Case, F, Q, Sum, When, Window
from django.urls import reverse
from django.utils import timezone


class Customer(models.Model):
    name = models.CharField(max_length=120, unique=True)
    town = models.CharField(max_length=60)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Account(models.Model):
    """Invariant: balance == opening + what came in - what went out. `transfers.transfer` keeps it."""

    class Kind(models.TextChoices):
        CURRENT = "current", "Current"
        SAVINGS = "savings", "Savings"

    number = models.CharField(max_length=12, unique=True)
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="accounts")
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.CURRENT)
    opening = models.PositiveBigIntegerField(help_text="cents")
    # Positive, so that the database itself refuses an overdraft.
    balance = models.PositiveBigIntegerField(help_text="cents")

    class Meta:
        ordering = ["number"]

    def __str__(self) -> str:
        return self.number

    def get_absolute_url(self) -> str:
        return reverse("account", args=[self.pk])


class TransferQuerySet(models.QuerySet["Transfer"]):
    def statement_of(self, account: Account) -> TransferQuerySet:
        """An account's transfers, newest first, each with `change` and the `balance_after` it.

        One statement computes the running balance, so it adds up also while transfers are made.
        """
        return (
            self.filter(Q(source=account) | Q(target=account))
            .annotate(change=Case(When(target=account, then=F("amount")), default=-F("amount")))
            .annotate(balance_after=account.opening + Window(Sum("change"), order_by=[F("made_at"), F("pk")]))
        )


class Transfer(models.Model):
    source = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="sent", db_index=False)
    target = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="received", db_index=False)
    amount = models.BigIntegerField(validators=[MinValueValidator(1)], help_text="cents")
    reference = models.CharField(max_length=80, blank=True)
    made_at = models.DateTimeField(default=timezone.now)

    objects = TransferQuerySet.as_manager()

    class Meta:
        ordering = ["-made_at", "-pk"]
        indexes = [
            models.Index(fields=["made_at"], name="transfer_made_at"),
            models.Index(fields=["source", "made_at"], name="transfer_source"),
            models.Index(fields=["target", "made_at"], name="transfer_target"),
        ]

    def __str__(self) -> str:
        return f"{self.source} to {self.target}"
