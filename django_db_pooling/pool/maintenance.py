"""What is done while nobody asks for a connection: idle ones are closed, long holders logged."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from django_db_pooling.log import redact
from django_db_pooling.pool.ending import Endings
from django_db_pooling.pool.health import Health
from django_db_pooling.pool.host import SPARE_AFTER
from django_db_pooling.pool.resting import Resting
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.slots import Slots
from django_db_pooling.pool.stats import Closed

# Idle connections over `size` stay this many seconds.
EXCESS_STAYS = 10.0


class Maintenance:
    """Of one pool. The housekeeper calls ``run`` every second."""

    def __init__(self, slots: Slots, resting: Resting, health: Health, endings: Endings) -> None:
        self._slots = slots
        self._resting = resting
        self._health = health
        self._endings = endings

    def run(self) -> None:
        """Everything, also where a part of it fails. Raises what failed."""
        with ExitStack() as last_first:
            last_first.callback(self._slots.journal.write)
            last_first.callback(self._log_long_holders, self._slots.limits.leak_threshold)
            last_first.callback(self._close_unwanted)
            last_first.callback(self._share_with_host)
            last_first.callback(self._slots.free_lost)
            last_first.callback(self._cut_late)
            last_first.callback(self._endings.look_after)

    def drain(self) -> None:
        """Close what is idle."""
        while (slot := self._slots.pop_oldest()) is not None:
            self._slots.close(slot, Closed.RECYCLED)

    def drain_here(self) -> None:
        """Close what is idle and belongs to this hub; others may be past closing theirs."""
        hub = self._slots.driver.hub()
        self._resting.end_all()
        for slot in self._slots.idle():
            if slot.hub is hub and self._slots.claim(slot):
                self._slots.close(slot, Closed.RECYCLED)

    def close_idle(self, unwanted: Callable[[object], bool]) -> None:
        """Close what is idle and of such an affinity."""
        for slot in self._slots.idle():
            if unwanted(slot.affinity) and self._slots.claim(slot):
                self._slots.close(slot, Closed.RECYCLED)

    def close_surplus(self) -> None:
        """Close what is idle beyond the cap, what has been idle for longest first."""
        while self._slots.is_over_cap and (slot := self._slots.pop_oldest()) is not None:
            self._slots.close(slot, Closed.SURPLUS)

    def _close_unwanted(self) -> None:
        """What has been idle for too long, is stale, broken, or one more than the pool keeps idle."""
        now = time.monotonic()
        self._slots.pause.end_in_time()
        if self._slots.is_closing or self._slots.pause.is_on:
            self._resting.end_all()
        else:
            self._resting.end_old()
        for slot in self._slots.idle():
            reason = self._not_wanted(slot, now)
            if (reason or self._health.looks_bad(slot)) and self._slots.claim(slot):
                # It may have been in use since the look, and be back.
                if reason is None and self._health.fit(slot):
                    self._slots.put_back(slot)
                else:
                    self._slots.close(slot, reason)
        if self._slots.waiting:
            self._slots.on_freed()

    def _share_with_host(self) -> None:
        """Idle connections that other processes need, what has been idle for longest first."""
        slots, host = self._slots, self._slots.host
        if host is None:
            return
        # In a pause nobody waits for want of others' connections.
        host.look_after(0 if slots.pause.is_on else len(slots.waiting))
        if host.to_spare:
            self._resting.end_old(SPARE_AFTER, lent=True)
        now, least = time.monotonic(), host.least
        for slot in slots.idle():
            if not host.to_spare or len(slots) <= least:
                break
            if now - slot.returned_at >= SPARE_AFTER and slots.claim(slot):
                slots.close(slot, Closed.SURPLUS)
                host.to_spare -= 1

    def _cut_late(self) -> None:
        """Those whose server has let them in, and has then been silent until their deadline; and those that
        were asked something.
        """
        now = time.monotonic()
        for slot in self._slots.all():
            connection = slot.connection
            if connection is None:
                continue
            if now > slot.open_until and self._slots.growth.begun(slot.number):
                slot.open_until = 0.0
                self._slots.driver.cut(connection)
            elif now > slot.answer_until:
                self._slots.driver.cut(connection)

    def _not_wanted(self, slot: Slot, now: float) -> Closed | None:
        """Why one that is idle isn't wanted any more."""
        limits, unused = self._slots.limits, now - slot.returned_at
        if self._slots.is_closing or self._slots.pause.is_on:
            return Closed.RECYCLED
        if self._slots.is_over_cap or (unused >= EXCESS_STAYS and self._slots.idle_count > limits.size):
            return Closed.SURPLUS
        is_over_minimum = limits.idle_timeout is not None and len(self._slots) > limits.min_size
        silent = min(unused, now - slot.validated_at)
        if silent >= slot.server_timeout or (is_over_minimum and unused >= (limits.idle_timeout or 0.0)):
            return Closed.IDLE
        return None

    def _log_long_holders(self, threshold: float | None) -> None:
        """Each checkout that takes longer is logged once, and when it ends (``Slots.count_held``)."""
        if threshold is None:
            return
        now = time.monotonic()
        for slot in self._slots.all():
            taken_at = slot.taken_at
            if taken_at and now - taken_at > threshold and slot.overdue is None:
                slot.overdue = redact(slot.holder)
                if slot.taken_at != taken_at:
                    # It came back this instant.
                    slot.overdue = None
                    continue
                self._slots.journal.note("held", seconds=now - taken_at, holder=slot.overdue)
