"""A caller in the queue, and the errors that it may get instead of a slot."""

from __future__ import annotations

from typing import Any

from django_db_pooling.pool.slot import Slot
from django_db_pooling.process.wakeup import Sleepers


class CheckoutTimeout(Exception):
    """No connection in time. ``waited``: seconds."""

    def __init__(self, message: str, waited: float) -> None:
        super().__init__(message)
        self.waited = waited


class ServerAway(Exception):
    """Opening has failed for too long to wait for it. ``error``: of the last attempt."""

    def __init__(self, message: str, error: Exception) -> None:
        super().__init__(message)
        self.error = error


class Shed(Exception):
    """Turned away while the pool is overloaded."""


class Waiter:
    """A caller in the queue. ``outcome``: the slot for it, or the error that it gets instead."""

    __slots__ = ("affinity", "asleep", "came", "impatient", "is_fresh", "number", "outcome", "sleepers")

    def __init__(
        self, number: int, affinity: object, impatient: bool, sleepers: Sleepers, came: float
    ) -> None:
        # Lower for whoever came earlier.
        self.number = number
        # When: of time.monotonic().
        self.came = came
        self.affinity = affinity
        # It can't wait at all.
        self.impatient = impatient
        self.sleepers = sleepers
        self.asleep: Any = None
        self.outcome: Slot | Exception | None = None
        # What it gets has been in use until now.
        self.is_fresh = False
