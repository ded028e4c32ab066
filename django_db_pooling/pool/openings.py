"""How it went when the holder of a bare slot opened a connection, and what it does then."""

from __future__ import annotations

import math
import random
import time

from django_db_pooling.pool.growth import AT_A_TIME, Growth
from django_db_pooling.pool.queue import Queue
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.slots import Slots

# Ages are cut by up to this share, so that what was opened together isn't closed together.
AGE_JITTER = 0.1
# A server that has refused one more connection may take more after so many seconds.
FULL_STAYS = 60.0


class Openings:
    """Of one pool."""

    def __init__(self, slots: Slots, queue: Queue) -> None:
        self._slots = slots
        self._queue = queue
        self._growth = slots.growth
        self._counts = slots.counts
        self._journal = slots.journal
        # When the server has refused one more, and how many were open then.
        self._full: tuple[float, int] | None = None

    def opened(self, slot: Slot) -> None:
        """The holder of a bare slot has put a usable connection into it."""
        slot.opened_at = slot.validated_at = time.monotonic()
        age = self._slots.limits.max_age
        cut = 1 - AGE_JITTER * random.random()
        slot.expires_at = math.inf if age is None else slot.opened_at + age * cut
        seconds = slot.opened_at - max(self._growth.begun(slot.number), slot.taken_at)
        self._counts.connects.observe(seconds)
        self._growth.end(slot.number)
        failed_at = self._growth.of(slot.affinity).succeeded()
        self._counts.opened += 1
        if self._full is not None and self._open > self._full[1]:
            self._full = None
        self._queue.match()
        if failed_at is not None:
            self._journal.note("connect_again", seconds=slot.opened_at - failed_at)
        if self._journal.is_verbose:
            self._journal.note("opened", connection=slot.number, seconds=seconds)

    def failed(self, slot: Slot, error: Exception) -> None:
        """The holder of a bare slot got this error instead of a connection; the slot is free again."""
        growth = self._note_failure(slot, error)
        if growth.outage:
            self._queue.turn_away()
        self._slots.discard(slot)

    def _note_failure(self, slot: Slot, error: Exception) -> Growth:
        growth = self._growth.of(slot.affinity)
        is_first = growth.gave_up(error, time.monotonic())
        self._journal.trouble("connect", error, is_logged=is_first)
        return growth

    def retry_in(
        self, error: Exception, began: float, until: float | None, affinity: object = None
    ) -> float | None:
        """The holder of a bare slot has found no server, with an attempt that began then.

        Seconds to wait before it tries again with this slot; 0: rather queue again, with another one,
        since others have connections that may come back; None: give up with this error.
        """
        max_wait, now = self._slots.limits.connect_retry, time.monotonic()
        if self._slots.pause.is_on and (until is None or now < until):
            # Its server may be away on purpose.
            return 0.0
        if max_wait <= 0:
            return None
        if affinity is None:
            affinity = self._slots.driver.hub()
        growth = self._growth.of(affinity)
        pause = growth.found_no_server(began, now, max_wait)
        growth.failed(error, now)
        if until is not None and now + (pause or 0.0) >= until:
            return None
        if growth.attempts > AT_A_TIME:
            # They have opened in the places of broken ones: few try again.
            return 0.0
        return 0.0 if self._queue.others_may_come_back(affinity) else pause

    def server_full(self, error: Exception) -> None:
        """The holder of a bare slot got this error since the server has as many connections as it allows."""
        now, most = time.monotonic(), self._slots.limits.max_outstanding
        self._counts.refused += 1
        self._full = now, self._open
        allowed = "any number of" if most is None else str(most)
        self._journal.trouble("full", error, open=self._full[1], allowed=allowed)

    def should_queue_again(self, slot: Slot, error: Exception, until: float | None) -> bool:
        """The holder of a bare slot got this error: whether it needn't fail, since others have connections
        that may come back in time. The pool doesn't grow for a while then.
        """
        now = time.monotonic()
        if until is not None and now >= until:
            return False
        if self._slots.pause.is_on:
            return True
        if not self._queue.others_may_come_back(slot.affinity):
            return False
        self._note_failure(slot, error).rest(now)
        return True

    @property
    def _open(self) -> int:
        """How many connections are open, with those that the server is ending."""
        return len(self._slots) - len(self._growth)

    def when_refused(self) -> int | None:
        """How many connections were open when the server refused another one, in the last minute."""
        full = self._full
        return None if full is None or time.monotonic() - full[0] > FULL_STAYS else full[1]
