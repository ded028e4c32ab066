"""The pages about the bank's staff, which a directory keeps."""

from __future__ import annotations

from decimal import Decimal

from bank.elsewhere import SLOW_CALL_SECONDS, exchange_rate
from bank.steps import Steps
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from people.clerks import accounts_by_clerk, accounts_of
from people.models import Person, Team

PAGE_SIZE = 25
CURRENCY = "USD"


@require_safe
def people(request: HttpRequest) -> HttpResponse:
    teams = list(Team.objects.all())
    found = Person.objects.all()
    search = request.GET.get("q", "").replace("\0", "").strip()
    for word in search.split():
        matches = Q(uid__icontains=word) | Q(name__icontains=word) | Q(mail__icontains=word)
        members = [uid for team in teams if word.lower() in team.name.lower() for uid in team.members]
        # An empty list would make a filter that no server understands.
        found = found.filter(matches | Q(uid__in=members) if members else matches)
    page = Paginator(found, PAGE_SIZE).get_page(request.GET.get("page"))
    accounts = accounts_by_clerk()
    rows = [
        {
            "person": person,
            "teams": [team for team in teams if person.uid in team.members],
            "accounts": accounts.get(person.uid, 0),
        }
        for person in page
    ]
    return render(request, "people/people.html", {"page": page, "rows": rows, "search": search})


@require_safe
def person(request: HttpRequest, uid: str) -> HttpResponse:
    """Who it is and what they look after: a search, a slow call to another service, a search."""
    steps = Steps()
    shown = steps.timed("LDAP search", lambda: get_object_or_404(Person, uid=uid))
    rate = steps.timed("simulated call", lambda: exchange_rate(CURRENCY))
    teams = steps.timed("LDAP search", lambda: list(Team.objects.filter(members__contains=shown.uid)))
    accounts = steps.timed("query", lambda: list(accounts_of(shown.uid).select_related("customer")))
    held = sum(account.balance for account in accounts)
    context = {
        "person": shown,
        "teams": [(team, [member for member in team.members if member != shown.uid]) for team in teams],
        "accounts": accounts,
        "held": held,
        "currency": CURRENCY,
        "worth": f"{Decimal(held) / 100 * rate:,.2f}",
        "slow_call_ms": round(SLOW_CALL_SECONDS * 1000),
        "steps": steps.done,
    }
    return render(request, "people/person.html", context)
