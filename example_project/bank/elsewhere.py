"""Simulates a slow service elsewhere: it only sleeps."""

from __future__ import annotations

import time
from decimal import Decimal

SLOW_CALL_SECONDS = 0.1

RATES = {
    "CHF": Decimal("0.94"),
    "GBP": Decimal("0.85"),
    "NOK": Decimal("11.65"),
    "SEK": Decimal("11.35"),
    "USD": Decimal("1.09"),
}


def exchange_rate(currency: str) -> Decimal:
    time.sleep(SLOW_CALL_SECONDS)
    return RATES[currency]
