"""Times by which something is to be done, of ``time.monotonic()``; None: whenever it is."""

from __future__ import annotations

import time

# Talking to the server gets at least this long (seconds), also where little time is left.
LEAST = 1.0


def until_after(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


def left_until(until: float | None) -> float | None:
    """Seconds for talking to the server."""
    return None if until is None else max(until - time.monotonic(), LEAST)
