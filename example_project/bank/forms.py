from __future__ import annotations

from decimal import Decimal

from django import forms

from bank.elsewhere import RATES
from bank.models import Account


class AccountNumberField(forms.ModelChoiceField):
    """An account by its number, typed or picked from the page's list of suggestions."""

    widget = forms.TextInput(
        attrs={"list": "account-numbers", "autocomplete": "off", "placeholder": "TB-000001"}
    )
    default_error_messages = {"invalid_choice": "There is no account with this number."}

    def __init__(self, **kwargs: object) -> None:
        super().__init__(Account.objects.select_related("customer"), to_field_name="number", **kwargs)

    def to_python(self, value: object) -> Account | None:
        return super().to_python(value.strip().upper() if isinstance(value, str) else value)


class TransferForm(forms.Form):
    source = AccountNumberField(label="From account")
    target = AccountNumberField(label="To account")
    amount = forms.DecimalField(
        label="Amount in euro",
        min_value=Decimal("0.01"),
        max_digits=12,
        decimal_places=2,
        widget=forms.NumberInput(attrs={"placeholder": "0.00"}),
    )
    reference = forms.CharField(max_length=80, required=False)

    def cents(self) -> int:
        return int(self.cleaned_data["amount"] * 100)


class QuoteForm(forms.Form):
    account = AccountNumberField()
    currency = forms.ChoiceField(choices=[(code, code) for code in RATES])
