from __future__ import annotations

import os
import secrets

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand
from django.db import transaction
from django.utils import timezone

from bank.models import Account, Customer, Transfer
from bank.seeding import Plan, plan

BATCH = 500
DEMO_ADMIN = "demo"


class Command(BaseCommand):
    help = "Fill an empty bank with invented customers, accounts and transfers."

    def add_arguments(self, parser):
        parser.add_argument("--accounts", type=int, default=200)
        parser.add_argument("--transfers", type=int, default=2000)
        parser.add_argument(
            "--demo-admin",
            action="store_true",
            help=f'also make a superuser "{DEMO_ADMIN}"; password from DEMO_ADMIN_PASSWORD or random',
        )

    def handle(self, *, accounts: int, transfers: int, demo_admin: bool, **options):
        if Account.objects.exists():
            self.stdout.write(
                f"The bank has {Account.objects.count()} accounts already and is left as it is."
            )
        else:
            today = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
            planned = plan(accounts, transfers, until=today)
            _store(planned)
            self.stdout.write(
                f"{len(planned.towns)} customers, {len(planned.accounts)} accounts, "
                f"{len(planned.transfers)} transfers."
            )
        if demo_admin:
            self._make_demo_admin()

    def _make_demo_admin(self) -> None:
        password = os.environ.get("DEMO_ADMIN_PASSWORD")
        if not password:
            password = secrets.token_urlsafe(9)
            self.stdout.write(f"Admin user {DEMO_ADMIN}, password {password}")
        user, _ = get_user_model().objects.get_or_create(
            username=DEMO_ADMIN, defaults={"is_staff": True, "is_superuser": True}
        )
        user.set_password(password)
        user.save(update_fields=["password"])


@transaction.atomic
def _store(planned: Plan) -> None:
    # Keys are read back by name and number: MySQL doesn't return them from a bulk insert.
    Customer.objects.bulk_create(
        [Customer(name=name, town=town) for name, town in planned.towns.items()], batch_size=BATCH
    )
    customer_ids = dict(Customer.objects.values_list("name", "pk"))
    Account.objects.bulk_create(
        [
            Account(
                number=account.number,
                customer_id=customer_ids[account.customer],
                kind=account.kind,
                opening=account.opening,
                balance=account.balance,
            )
            for account in planned.accounts
        ],
        batch_size=BATCH,
    )
    account_ids = dict(Account.objects.values_list("number", "pk"))
    Transfer.objects.bulk_create(
        [
            Transfer(
                source_id=account_ids[made.source],
                target_id=account_ids[made.target],
                amount=made.amount,
                reference=made.reference,
                made_at=made.made_at,
            )
            for made in planned.transfers
        ],
        batch_size=BATCH,
    )
