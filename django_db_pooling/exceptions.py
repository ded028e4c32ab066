"""Errors that reach the user's code. All are Django's ``OperationalError``."""

from __future__ import annotations

from django.db import OperationalError


class PoolTimeout(OperationalError):
    """No connection was free in time.

    The message names the pool, its counts, who has held a connection longest, and the last
    connect error if there was one. ``waited``: seconds; 0.0 when waiting was not allowed.
    """

    def __init__(self, message: str, waited: float = 0.0) -> None:
        super().__init__(message)
        self.waited = waited
