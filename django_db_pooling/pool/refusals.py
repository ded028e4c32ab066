"""What a caller is told that gets no connection."""

from __future__ import annotations

import time
from collections.abc import Sized
from typing import Any

from django_db_pooling.log import redact
from django_db_pooling.pool.holders import Holder, request_label
from django_db_pooling.pool.slots import Slots
from django_db_pooling.pool.waiter import CheckoutTimeout

# What to do.
PAUSED = "Wait, or resume it."
SERVER_REFUSES = (
    "The server takes no more connections at this moment; if it is full, let each process open fewer, or "
    "raise its limit."
)


class Refusals:
    """Of one pool. ``waiters``: those in its queue."""

    def __init__(self, name: str, slots: Slots, waiters: Sized) -> None:
        self._name = name
        self._slots = slots
        self._waiters = waiters
        # As in Pool.
        self.error_name = self.remedy = ""

    def refusal(
        self, waited: float, why: str, counted: bool = True, holder: object = None
    ) -> CheckoutTimeout:
        """The error for a caller that gets no connection; it is counted and logged if ``counted``.

        ``holder``: the caller, as who it would have held one.
        """
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
            message += f" Held longest: {now - longest.taken_at:.1f} s by {redact(longest.holder)}"
            # With LEAK_THRESHOLD it is a Holding, which names the line.
            message += " (LEAK_THRESHOLD shows the line)." if isinstance(longest.holder, Holder) else "."
        last = self._slots.growth.latest_error
        if last is not None:
            at, error = last
            message += f" Last connect error, {now - at:.1f} s ago: {redact(error)}."
        remedy = self.remedy
        if self._slots.pause.is_on:
            remedy = PAUSED
        elif last is not None:
            remedy = SERVER_REFUSES
        if counted:
            self._slots.counts.timeouts += 1
            self._slots.journal.trouble(
                "timeout",
                f"{self.error_name}: {message}",
                request=request_label(holder),
                remedy=remedy,
                seconds=waited,
                **figures,
            )
        return CheckoutTimeout(f"{message} {remedy}", waited)

    def limits(self) -> str:
        """Sentences: what keeps the pool from opening more, besides ``max_outstanding``."""
        told = ""
        if self._slots.host is not None:
            limit, count, processes = self._slots.host.read()
            where = "this process" if processes == 1 else f"{processes} processes"
            told = f" HOST_LIMIT {limit}, {count} open in {where}."
        paused = self._slots.pause.left
        return told if paused is None else f"{told} The pool is paused, for {paused:.0f} s more."

    def shed(self, waited: float, counted: bool, holder: object) -> CheckoutTimeout:
        """As ``refusal``, for one that was turned away while the pool is overloaded."""
        self._slots.counts.shed += counted
        target = self._slots.limits.wait_target
        why = f"shed after {waited:.1f} s, the pool is overloaded (WAIT_TARGET {target})"
        return self.refusal(waited, why, counted, holder)

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
