"""The endpoints for programs. Each docstring has its cost, so that a load test knows what it measures."""

from __future__ import annotations

from django.db.models import Sum
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from bank.elsewhere import SLOW_CALL_SECONDS, exchange_rate
from bank.models import Account, Transfer


def _number_and_balance(pk: int) -> dict[str, object] | None:
    return Account.objects.filter(pk=pk).values("number", "balance").first()


def _no_such_account() -> JsonResponse:
    return JsonResponse({"error": "there is no such account"}, status=404)


@require_safe
def balance(request: HttpRequest, pk: int) -> JsonResponse:
    """Exactly one query."""
    row = _number_and_balance(pk)
    return _no_such_account() if row is None else JsonResponse(row)


@require_safe
def mixed(request: HttpRequest, pk: int) -> JsonResponse:
    """A query, a simulated slow call to another service, a query."""
    row = _number_and_balance(pk)
    if row is None:
        return _no_such_account()
    rate = exchange_rate("USD")
    received = Transfer.objects.filter(target=pk).aggregate(total=Sum("amount", default=0))["total"]
    return JsonResponse(
        {**row, "received": received, "usd": str(rate), "simulated_call_seconds": SLOW_CALL_SECONDS}
    )


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """No query: shows that this process answers, not that its database does."""
    return HttpResponse("ok\n", content_type="text/plain")
