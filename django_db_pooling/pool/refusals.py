"""What a caller is told that gets no connection."""

from __future__ import annotations

import time
from collections.abc import Sized
from typing import Any

from django_db_pooling.log import redact
from django_db_pooling.pool.slots import Slots
from django_db_pooling.pool.waiter import CheckoutTimeout


class Refusals:
    """Of one pool. ``waiters``: those in its queue."""

    def __init__(self, name: str, slots: Slots, waiters: Sized) -> None:
        self._name = name
        self._slots = slots
        self._waiters = waiters

    def refusal(self, waited: float, why: str, counted: bool = True) -> CheckoutTimeout:
        """The error for a caller that gets no connection; it is counted and logged if ``counted``."""
        now = time.monotonic()
        held = [slot for slot in self._slots.all() if slot.taken_at]
        figures = self.figures()
        ending = f"{figures['ending']} ending, " if figures["ending"] else ""
        message = (
            f"No connection from pool {self._name!r}: {why}; {figures['in_use']} in use, "
            f"{figures['idle']} idle, {figures['opening']} opening, {ending}{figures['waiting']} waiting, "
            f"max_outstanding {figures['max_outstanding']}."
        )
        message += self.limits()
        if held:
            longest = min(held, key=lambda slot: slot.taken_at)
            message += f" Held longest: {now - longest.taken_at:.1f} s by {redact(longest.holder)}."
        last = self._slots.growth.latest_error
        if last is not None:
            at, error = last
            message += f" Last connect error, {now - at:.1f} s ago: {redact(error)}."
        refusal = CheckoutTimeout(message, waited)
        if counted:
            self._slots.counts.timeouts += 1
            self._slots.journal.trouble("timeout", refusal, seconds=waited, **figures)
        return refusal

    def limits(self) -> str:
        """Sentences: what keeps the pool from opening more, besides ``max_outstanding``."""
        told = "" if self._slots.host is None else f" {self._slots.host.describe()}."
        paused = self._slots.pause.left
        return told if paused is None else f"{told} The pool is paused, for {paused:.0f} s more."

    def shed(self, waited: float, counted: bool) -> CheckoutTimeout:
        """As ``refusal``, for one that was turned away while the pool is overloaded."""
        self._slots.counts.shed += counted
        target = self._slots.limits.wait_target
        why = f"shed after {waited:.1f} s, the pool is overloaded (WAIT_TARGET {target})"
        return self.refusal(waited, why, counted)

    def figures(self) -> dict[str, Any]:
        """Counts of this moment, read without stopping anybody."""
        idle, opening, ending = self._slots.idle_count, len(self._slots.growth), len(self._slots.ending)
        return {
            "in_use": max(0, len(self._slots) - idle - opening - ending),
            "idle": idle,
            "opening": opening,
            "ending": ending,
            "waiting": len(self._waiters),
            "max_outstanding": self._slots.limits.max_outstanding,
        }
