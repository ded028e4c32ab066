"""Errors for users to catch. All are subclasses of Django's ``OperationalError``."""

from __future__ import annotations

from django.db import OperationalError


class PoolTimeout(OperationalError):
    """No connection was free in time.

    The message has the pool's name and counts, who has held a connection longest, and the last connect
    error, if any. ``waited``: seconds; 0.0 when waiting was not allowed, or of no use. ``alias``: of the
    database.
    """

    def __init__(self, message: str, waited: float = 0.0, alias: str = "") -> None:
        super().__init__(message)
        self.waited = waited
        self.alias = alias
