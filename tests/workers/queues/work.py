"""The body of all tasks."""

from __future__ import annotations

from django.db import transaction

from tests.site.models import Mark
from tests.site.views import tokens


def work(token: str) -> None:
    """A query, and a transaction that leaves two rows with what the server has answered."""
    [answered] = tokens(token)
    with transaction.atomic():
        for part in (1, 2):
            [again] = tokens(answered)
            Mark.objects.create(token=f"{token} {answered} {again}", part=part)
