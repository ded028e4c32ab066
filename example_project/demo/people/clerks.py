"""Who looks after which account: TB-000123 is user023's, as its last two digits say."""

from __future__ import annotations

import logging
import re

from bank.models import Account
from django.db import OperationalError
from django.db.models import Count, QuerySet
from django.db.models.functions import Right
from django.http import HttpRequest
from ldap import LDAPError

from people.models import Person

CLERK = re.compile(r"user0(\d\d)")

logger = logging.getLogger(__name__)


def clerk_of(account: Account) -> Person | None:
    """None also if the directory is unavailable: an account's page works without it."""
    try:
        return Person.objects.filter(uid=f"user0{account.number[-2:]}").first()
    except (OperationalError, LDAPError) as failure:
        logger.warning("No clerk for %s: %s", account, failure)
        return None


def clerk(request: HttpRequest) -> dict[str, Person | None]:
    """For an account's page."""
    match = request.resolver_match
    if match is None or match.url_name != "account":
        return {}
    account = Account.objects.filter(pk=match.kwargs["pk"]).first()
    return {"clerk": account and clerk_of(account)}


def accounts_of(uid: str) -> QuerySet[Account]:
    clerk = CLERK.fullmatch(uid)
    return Account.objects.filter(number__endswith=clerk[1]) if clerk else Account.objects.none()


def accounts_by_clerk() -> dict[str, int]:
    """How many accounts each clerk has, by uid."""
    counts = Account.objects.order_by().values_list(Right("number", 2)).annotate(Count("pk"))
    return {f"user0{digits}": count for digits, count in counts}
