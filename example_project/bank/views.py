"""The pages about money."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Count, Q, Sum
from django.db.models.functions import TruncDate
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from bank.charts import bars, sparkline
from bank.elsewhere import SLOW_CALL_SECONDS, exchange_rate
from bank.forms import QuoteForm, TransferForm
from bank.models import Account, Customer, Transfer
from bank.steps import Steps
from bank.templatetags.money import money
from bank.transfers import TransferRefused, transfer

PAGE_SIZE = 25
LATEST = 8
DAYS_ON_FRONT = 30
SPARKLINE_POINTS = 120
SUGGESTIONS = 500


def _with_parties(transfers):
    return transfers.select_related("source__customer", "target__customer")


def _suggested_accounts():
    return Account.objects.values_list("number", "customer__name")[:SUGGESTIONS]


@require_safe
def front(request: HttpRequest) -> HttpResponse:
    today = timezone.now().date()
    days = [today - timedelta(days=n) for n in reversed(range(DAYS_ON_FRONT))]
    moved = dict(
        Transfer.objects.filter(made_at__date__gte=days[0])
        .annotate(day=TruncDate("made_at"))
        .values_list("day")
        .annotate(total=Sum("amount"))
        .order_by("day")
    )
    context = {
        "totals": Account.objects.aggregate(
            accounts=Count("pk"), balance=Sum("balance", default=0), opening=Sum("opening", default=0)
        ),
        "customers": Customer.objects.count(),
        "transfers": Transfer.objects.count(),
        "latest": _with_parties(Transfer.objects.all())[:LATEST],
        "moved": sum(moved.values()),
        "days": bars([(f"{day:%d %B}: {money(moved.get(day, 0))}", moved.get(day, 0)) for day in days]),
        "first_day": days[0],
        "last_day": days[-1],
    }
    return render(request, "bank/front.html", context)


@require_safe
def accounts(request: HttpRequest) -> HttpResponse:
    found = Account.objects.select_related("customer")
    search = request.GET.get("q", "").replace("\0", "").strip()
    for word in search.split():
        found = found.filter(
            Q(number__icontains=word) | Q(customer__name__icontains=word) | Q(customer__town__icontains=word)
        )
    page = Paginator(found, PAGE_SIZE).get_page(request.GET.get("page"))
    return render(request, "bank/accounts.html", {"page": page, "search": search})


@require_safe
def account(request: HttpRequest, pk: int) -> HttpResponse:
    shown = get_object_or_404(Account.objects.select_related("customer"), pk=pk)
    statement = Transfer.objects.statement_of(shown)
    balances = list(statement.values_list("balance_after", flat=True)[:SPARKLINE_POINTS])
    context = {
        "account": shown,
        "page": Paginator(_with_parties(statement), PAGE_SIZE).get_page(request.GET.get("page")),
        "sparkline": sparkline([int(balance) for balance in reversed(balances)]),
        "points": len(balances),
    }
    return render(request, "bank/account.html", context)


@require_safe
def transfers(request: HttpRequest) -> HttpResponse:
    page = Paginator(_with_parties(Transfer.objects.all()), PAGE_SIZE).get_page(request.GET.get("page"))
    return render(request, "bank/transfers.html", {"page": page})


@require_http_methods(["GET", "HEAD", "POST"])
def new_transfer(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        form = TransferForm(request.POST)
        if form.is_valid():
            wanted = form.cleaned_data
            try:
                made = transfer(wanted["source"].pk, wanted["target"].pk, form.cents(), wanted["reference"])
            except TransferRefused as refusal:
                form.add_error(None, str(refusal))
            else:
                messages.success(request, f"{money(made.amount)} went from {made.source} to {made.target}.")
                return redirect(made.source)
    else:
        form = TransferForm(initial={"source": request.GET.get("from", "")})
    context = {"form": form, "suggestions": _suggested_accounts()}
    return render(request, "bank/new_transfer.html", context)


@require_safe
def quote(request: HttpRequest) -> HttpResponse:
    """A customer's money in another currency: a query, a slow call to another service, a query."""
    form = QuoteForm(request.GET or None)
    context = {"form": form, "slow_call_ms": round(SLOW_CALL_SECONDS * 1000)}
    steps = Steps()
    if steps.timed("query", form.is_valid):
        account, currency = form.cleaned_data["account"], form.cleaned_data["currency"]
        rate = steps.timed("simulated call", lambda: exchange_rate(currency))
        held = steps.timed(
            "query",
            lambda: account.customer.accounts.aggregate(total=Sum("balance"), accounts=Count("pk")),
        )
        context |= {
            "account": account,
            "currency": currency,
            "rate": rate,
            "held": held,
            "worth": f"{Decimal(held['total']) / 100 * rate:,.2f}",
            "steps": steps.done,
        }
    context["suggestions"] = _suggested_accounts()
    return render(request, "bank/quote.html", context)
