"""The endpoints for programs. Each docstring has its cost, so that a load test knows what it measures."""

from __future__ import annotations

from collections.abc import Callable

from django.db.models import Sum
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from bank.elsewhere import SLOW_CALL_SECONDS, exchange_rate
from bank.models import Account, Transfer
from django_db_pooling import pooling


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
    """A query, a simulated slow call to another service, a query.

    The first query takes a connection from the pool, and the request keeps it to its end, so also
    during the call.
    """
    return _mixed(pk, before_call=lambda: None)


@require_safe
def mixed_released(request: HttpRequest, pk: int) -> JsonResponse:
    """The same, but it gives its connection back before the call. The second query takes one again."""
    return _mixed(pk, before_call=pooling.release)


@require_safe
@pooling.scope("transaction")
def mixed_in_transaction_scope(request: HttpRequest, pk: int) -> JsonResponse:
    """The same, but each query outside of `atomic()` gives its connection back at once.

    "SCOPE": "transaction" in the settings' POOL is that for all views.
    """
    return _mixed(pk, before_call=lambda: None)


def _mixed(pk: int, before_call: Callable[[], None]) -> JsonResponse:
    row = _number_and_balance(pk)
    if row is None:
        return _no_such_account()
    before_call()
    rate = exchange_rate("USD")
    received = Transfer.objects.filter(target=pk).aggregate(total=Sum("amount", default=0))["total"]
    return JsonResponse(
        {**row, "received": received, "usd": str(rate), "simulated_call_seconds": SLOW_CALL_SECONDS}
    )


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """No query: shows that this process answers, not that its database does."""
    return HttpResponse("ok\n", content_type="text/plain")
