"""Whether a connection can be used: stale or broken (no), or suspect (after a question to the server)."""

from __future__ import annotations

import math
import time

from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.slots import FRESH, Slots


class Health:
    """What one pool knows of its connections' health."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._driver = slots.driver
        # All connections that were last known to be good before then are suspect.
        self.suspect_before = -math.inf

    def fit(self, slot: Slot) -> bool:
        """Whether the caller, who has this slot, may use it. Where asking fails the slot is discarded."""
        try:
            if slot.generation != self._slots.generation or time.monotonic() >= slot.expires_at:
                return False
            alive = self._driver.alive(slot.connection)
            if alive is False:
                self._slots.counts.broken += 1
                slot.broken = True
                self.found_broken()
                return False
            if alive is None:
                self.suspect(slot)
            return True
        except BaseException:
            # The frames that the error refers to have the slot: it would last as long as the error.
            self._slots.discard(slot)
            raise

    def is_fresh(self, slot: Slot) -> bool:
        """Whether it has come back so lately, from one who had it for so short a time, that it needs no look.

        ``Slots.checkin`` has seen how long its holder had it; this is about the time since.
        """
        now = time.monotonic()
        return (
            now - slot.returned_at < FRESH
            and now < slot.expires_at
            and slot.generation == self._slots.generation
        )

    def looks_bad(self, slot: Slot) -> bool:
        """As far as can be seen by somebody who doesn't have the slot: it may be in use by now."""
        if slot.generation != self._slots.generation or time.monotonic() >= slot.expires_at:
            return True
        connection = slot.connection
        return connection is not None and self._driver.alive(connection) is False

    def is_suspect(self, slot: Slot) -> bool:
        """Whether another connection broke since this one was last known to be good, or it looks odd."""
        return slot.validated_at <= self.suspect_before

    def suspect(self, slot: Slot) -> None:
        """Something odd has happened with this connection: its next holder asks the server."""
        slot.validated_at = -math.inf

    def suspect_all(self) -> None:
        """The server has closed a connection, and may have closed all that were opened before now."""
        self.suspect_before = time.monotonic()

    def found_broken(self) -> None:
        """It has closed one that nobody was using."""
        self.suspect_all()
        self._slots.journal.note("dead")

    def validated(self, slot: Slot) -> None:
        """The holder has asked the server, and it answered."""
        slot.validated_at = time.monotonic()
