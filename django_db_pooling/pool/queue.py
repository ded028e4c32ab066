"""Who waits for a slot, and who is next: first come, first served.

This file alone changes ``waiters``, which is in the order in which callers came. Whoever removes a waiter
must serve it or turn it away. What comes back goes straight to the head of the queue, where it fits
(``hand_over``). For everything else there is ``match``, which serves the first waiter for whom there is
something: that is the head, but for connections of another affinity than its own, which go to the first
waiter who can use them. It runs in one thread at a time, in anyone's, and never blocks.
"""

from __future__ import annotations

import itertools
import math
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable

from django_db_pooling.pool.coalesce import Coalesced
from django_db_pooling.pool.health import Health
from django_db_pooling.pool.histogram import BOUNDS
from django_db_pooling.pool.looks import Looks
from django_db_pooling.pool.refusals import Refusals
from django_db_pooling.pool.resting import Rest, Resting
from django_db_pooling.pool.shedding import Shedding
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.slots import Slots
from django_db_pooling.pool.stats import Closed
from django_db_pooling.pool.waiter import ServerAway, Shed, Waiter
from django_db_pooling.process.observers import observers
from django_db_pooling.process.wakeup import Here, Sleepers

# While another native thread is just handing out: seconds between checks.
SPIN_INTERVAL = 0.001
# Seconds that a caller which gives up waits for what somebody has claimed it for.
LAST_WAIT = 0.5
# Seconds that a caller waits for what the one finds who tries for all whether the server is back.
PROBE_WAIT = 0.25


class Queue:
    """The waiters of one pool."""

    def __init__(self, name: str, slots: Slots, resting: Resting, health: Health) -> None:
        self.waiters: deque[Waiter] = deque()
        self.match = Coalesced(self._serve_waiters)
        # Called by those who come: among whom they sleep.
        self.here: Callable[[], Sleepers] = Here(self.match)
        self._name = name
        self._slots = slots
        self._idle = slots.unused
        self._resting = resting
        self._health = health
        self._growth = slots.growth
        self._counts = slots.counts
        self._numbers = itertools.count(1)
        self.refusals = refusals = Refusals(name, slots, self.waiters)
        # Methods of this queue, too: they are in refusals.py.
        self.refusal, self.figures = refusals.refusal, refusals.figures
        self.looks = Looks(slots, self.figures, refusals.limits)
        # None: nobody is turned away for that.
        self.shedding: Shedding | None = None

    def set_wait_target(self, target: float | None) -> None:
        """As in the limits."""
        if target is None:
            self.shedding = None
        elif self.shedding is None or self.shedding.target != target:
            self.shedding = Shedding(target, self._slots, self.waiters, self._serve)

    # -- waiting -----------------------------------------------------------------------------

    def wait(
        self,
        affinity: object,
        deadline: float | None,
        began: float | None,
        counted: bool,
        before_waiting: Callable[[Waiter], str | None] | None,
        holder: object,
    ) -> Slot:
        """See ``Pool.checkout``."""
        started, waiters = time.monotonic(), self.waiters
        impatient = deadline is not None and deadline <= started
        waiter = Waiter(next(self._numbers), affinity, impatient, self.here(), started)
        try:
            waiters.append(waiter)
            if self.shedding is not None and len(waiters) == 1:
                self.shedding.nobody_waits()
            # What is free, but for idle connections, could only be the head's, who has checked for it.
            if len(waiters) == 1 or self._idle or impatient or self._growth.failing:
                self.match()
            why = before_waiting(waiter) if before_waiting and waiter.outcome is None else None
            if why is not None:
                raise self.refusal(0.0, why, counted, holder)
            slot = self._wait_for_slot(waiter, deadline, began or started, started, counted, holder)
            self._counts.queued += 1
            return slot
        except BaseException:
            self._leave(waiter)
            raise
        finally:
            if self._slots.host is not None:
                self._slots.host.tell(len(waiters))
            waited = time.monotonic() - started
            # As observe() does, without a call.
            waits = self._counts.waits
            try:
                waits.buckets[bisect_left(BOUNDS, waited)] += 1
                waits.seconds += waited
            except Exception as error:
                observers.failed("counting", error)
            if waited > self._counts.longest_wait_seconds:
                self._counts.longest_wait_seconds = waited

    def _wait_for_slot(
        self, waiter: Waiter, deadline: float | None, began: float, now: float, counted: bool, holder: object
    ) -> Slot:
        """What a waiter in the queue gets. Raises CheckoutTimeout and ServerAway."""
        limits = self._slots.limits
        most, slow = limits.max_waiting, limits.slow_checkout
        if most is not None and waiter.outcome is None:
            self._let_match_end(waiter)
            # For as many as there is room for it is only a matter of time that they may open.
            if waiter.outcome is None and len(self.waiters) - self._slots.room > most:
                why = f"MAX_WAITING ({most}) callers are already waiting"
                raise self.refusal(0.0, why, counted, holder)
        look_at = math.inf if slow is None else began + slow
        while True:
            while waiter.outcome is None:
                if now >= look_at:
                    look_at = math.inf
                    self.looks.since(began)
                if deadline is not None and now >= deadline:
                    self._let_match_end(waiter)
                    if waiter.outcome is None:
                        waited = now - began if began < deadline else 0.0
                        raise self.refusal(waited, f"waited {waited:.1f} s", counted, holder)
                    break
                seconds = min(look_at, math.inf if deadline is None else deadline) - now
                if self._growth.failing:
                    seconds = min(seconds, PROBE_WAIT)
                if self._slots.host is not None:
                    seconds = min(
                        seconds, self._slots.host.poll_after(self.head() is waiter, len(self.waiters))
                    )
                waiter.sleepers.sleep(waiter, seconds)
                if waiter.outcome is None:
                    now = time.monotonic()
                    if deadline is None or now < deadline:
                        self.match()
            slot = waiter.outcome
            if isinstance(slot, Shed):
                raise self.refusals.shed(time.monotonic() - began, counted, holder)
            if not isinstance(slot, Slot):
                raise slot
            if slot.connection is None:
                slot.hub = self._slots.driver.hub()
                return slot
            if slot.affinity != waiter.affinity:
                self._slots.make_bare(slot, waiter.affinity, Closed.SURPLUS)
                return slot
            if (waiter.is_fresh and self._health.is_fresh(slot)) or self._health.fit(slot):
                return slot
            waiter.outcome = None
            self._return(waiter)
            self._slots.close(slot)
            now = time.monotonic()

    def _let_match_end(self, waiter: Waiter) -> None:
        """Another native thread may be handing out this instant, maybe to this waiter."""
        while waiter.outcome is None and self.match.running:
            waiter.sleepers.sleep(waiter, SPIN_INTERVAL)
            self.match()

    def _return(self, waiter: Waiter) -> None:
        """To its old place: others whose connections were broken, too, may be back before it."""
        earlier = sum(other.number < waiter.number for other in list(self.waiters))
        self.waiters.insert(earlier, waiter)

    def _leave(self, waiter: Waiter) -> None:
        was_first = self.head() is waiter
        try:
            self.waiters.remove(waiter)
        except ValueError:
            # Removed for a slot, which is on its way from another native thread, or here already.
            if waiter.outcome is None:
                waiter.sleepers.sleep(waiter, LAST_WAIT)
            slot, waiter.outcome = waiter.outcome, None
            if isinstance(slot, Slot):
                if slot.affinity != waiter.affinity:
                    self._growth.end(slot.number)
                self._slots.put_back(slot)
        else:
            if was_first and self.waiters:
                # Whoever is first now may be allowed to open, and has not checked since.
                self.match()

    def head(self) -> Waiter | None:
        """Who is next."""
        try:
            return self.waiters[0]
        except IndexError:
            return None

    # -- handing over --------------------------------------------------------------------------

    def hand_over(self, slot: Slot, is_fresh: bool) -> bool:
        """Give what has just come back to the head of the queue. False: it is of no use there."""
        if self.shedding is not None:
            self.shedding.shed()
        try:
            waiter = self.waiters[0]
        except IndexError:
            return False
        if waiter.affinity != slot.affinity or not self._serve(waiter, slot, is_fresh):
            return False
        if self.shedding is not None:
            self.shedding.served(waiter)
        if self._growth.failing:
            # Whoever is first now may have nobody to wait for, and so be allowed to open.
            self.match()
        return True

    def _serve(self, waiter: Waiter, outcome: Slot | Exception, is_fresh: bool = False) -> bool:
        """False: it is not in the queue any more."""
        try:
            self.waiters.remove(waiter)
            waiter.is_fresh = is_fresh
            waiter.outcome = outcome
            waiter.sleepers.wake(waiter)
        except ValueError:
            # It gave up this instant, or somebody else serves it.
            return False
        except BaseException:
            # A signal's exception: nobody else would serve this waiter again.
            if waiter.outcome is None and waiter not in self.waiters:
                self._return(waiter)
            raise
        return True

    # -- matching ------------------------------------------------------------------------------

    def _serve_waiters(self) -> None:
        slots = self._slots
        if slots.ending:
            slots.drop_overdue()
        if slots.pause.until:
            slots.pause.end_in_time()
            if slots.pause.is_on:
                return
        if self.shedding is not None:
            self.shedding.shed()
        while self.waiters and (slots.idle_count or len(self._resting) or slots.has_room):
            match = self._next_match()
            if match is None:
                break
            waiter, slot = match
            if not self._serve(waiter, slot):
                if slot.affinity != waiter.affinity:
                    self._growth.end(slot.number)
                slots.put_back(slot)
            elif self.shedding is not None:
                self.shedding.served(waiter)
        if self.waiters and self._growth.failing:
            self.turn_away()
        if slots.host is not None:
            slots.host.tell(len(self.waiters))

    def _next_match(self) -> tuple[Waiter, Slot] | None:
        """The first waiter for whom there is something, and what that is."""
        head = self.head()
        if head is None:
            return None
        affinity = head.affinity
        slot = self._slot_for(head)
        if slot is not None:
            return head, slot
        if self._growth.failing and self._growth.of(affinity).away:
            # Its server is away; that of others may be there.
            for waiter in list(self.waiters):
                if not self._growth.of(waiter.affinity).away:
                    slot = self._slot_for(waiter)
                    if slot is not None:
                        return waiter, slot
                    break
        unused: list[Slot | Rest] = [*self._slots.idle(), *self._resting.all()]
        if any(each.affinity != affinity for each in unused):
            # Of other affinities, and the head must not open in their place yet.
            for waiter in list(self.waiters):
                slot = self._slots.claim_any(waiter.affinity) or self._resting.claim_any(waiter.affinity)
                if slot is not None:
                    return waiter, slot
        return None

    def _slot_for(self, waiter: Waiter) -> Slot | None:
        affinity = waiter.affinity
        opens = waiter.impatient or self.may_open(affinity)
        slot = (
            self._slots.claim_any(affinity)
            or (self._slots.new(affinity) if opens else None)
            or (self._slots.claim_other(affinity) if opens else None)
            or self._resting.claim_any(affinity)
            or (self._resting.claim_other(affinity) if opens else None)
        )
        if slot is not None and slot.affinity != affinity:
            # The connection is of no use, but its place is: the waiter closes it first.
            self._growth.of(affinity).begin(slot.number, time.monotonic())
        return slot

    def may_open(self, affinity: object) -> bool:
        """Whether one more connection may be opened at this moment."""
        if self._slots.pause.is_on:
            return False
        growth = self._growth.of(affinity)
        now = time.monotonic()
        others = (growth.away or growth.is_resting(now)) and self.others_may_come_back(affinity)
        return growth.may_begin(now, others)

    # -- while there is nothing to wait for ---------------------------------------------------------

    def turn_away(self) -> None:
        """Waiters whose server is away, while somebody is trying again for all: but those to whom a good
        connection may come back, and those who have just come and will hear what that attempt finds.
        """
        now, max_wait = time.monotonic(), self._slots.limits.connect_retry
        if self._slots.pause.is_on:
            return
        for waiter in list(self.waiters):
            growth = self._growth.of(waiter.affinity)
            last = growth.last_error
            if last is None or not growth.fails_fast(now, max_wait):
                continue
            if self.others_may_come_back(waiter.affinity):
                continue
            at, error = last
            if growth.attempts and at < waiter.came and now - waiter.came < PROBE_WAIT:
                continue
            ago = now - at
            text = f"pool {self._name!r}: connecting failed {ago:.1f} s ago, not tried again"
            self._serve(waiter, ServerAway(text, error))

    def others_may_come_back(self, affinity: object) -> bool:
        """Whether somebody has a good connection of this affinity."""
        return any(
            slot.affinity == affinity and slot.connection is not None and not self._health.is_suspect(slot)
            for slot in self._slots.all()
        )
