"""What those who wait for long see of their pool: how full it is, and who holds its connections."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from django_db_pooling.log import redact
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.slots import Slots
from django_db_pooling.process.observers import observers

MOST_HOLDERS = 3


class Look(NamedTuple):
    """``at``: of time.monotonic(); ``figures``: counts; ``holders``: the longest first, in one line.

    ``limits``: sentences, what keeps the pool from opening more, besides ``max_outstanding``.
    """

    at: float
    figures: dict[str, Any]
    holders: str
    limits: str


class Looks:
    """Of one pool. Those who wait at the same time share one: a storm of them looks once."""

    def __init__(
        self, slots: Slots, figures: Callable[[], dict[str, Any]], limits: Callable[[], str]
    ) -> None:
        self._slots = slots
        self._figures = figures
        self._limits = limits
        self._latest: Look | None = None

    def since(self, began: float, own: Slot | None = None) -> Look:
        """The first one since then, or one of this moment. ``own``: what the caller itself has got."""
        latest = self._latest
        if latest is None or latest.at < began:
            latest = self._latest = self._look(own)
        return latest

    def _look(self, own: Slot | None) -> Look:
        now, figures = time.monotonic(), self._figures()
        try:
            return Look(now, figures, self._holders(now, own), self._limits())
        except Exception as error:
            observers.failed("looking at the holders", error)
            return Look(now, figures, "?", "")

    def _holders(self, now: float, own: Slot | None) -> str:
        held = [slot for slot in self._slots.all() if slot.taken_at and slot is not own]
        held.sort(key=lambda slot: slot.taken_at)
        told = [f"{now - slot.taken_at:.1f} s by {redact(slot.holder)}" for slot in held[:MOST_HOLDERS]]
        return "; ".join(told) or "nobody"
