"""Who waits for a slot, and who is next: first come, first served.

This file alone changes ``waiters``, which is in the order in which callers came. Whoever removes a waiter
must serve it or turn it away. ``match`` serves the first waiter for whom there is something: that is the
head, but for connections of another affinity than its own, which go to the first waiter who can use them.
It runs in one thread at a time, in anyone's, and never blocks.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import Any

from django_db_pooling.log import redact
from django_db_pooling.pool.coalesce import Coalesced
from django_db_pooling.pool.health import Health
from django_db_pooling.pool.resting import Rest, Resting
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.slots import Slots
from django_db_pooling.pool.stats import Closed
from django_db_pooling.process.wakeup import Wakeup

# Waiters check for themselves this often (seconds): that openings stall, and for safety.
RECHECK_INTERVAL = 0.5
# While another native thread is just handing out: seconds between checks.
SPIN_INTERVAL = 0.001


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


class Waiter:
    """A caller in the queue, and the place where the slot for it is put."""

    __slots__ = ("_refusal", "_wakeup", "affinity", "expecting", "impatient", "number", "slot")

    def __init__(self, number: int, affinity: object, impatient: bool, wakeup: Wakeup) -> None:
        # Lower for whoever came earlier.
        self.number = number
        self.affinity = affinity
        # It can't wait at all.
        self.impatient = impatient
        self.expecting = True
        self.slot: Slot | None = None
        self._refusal: Exception | None = None
        self._wakeup = wakeup

    def serve(self, slot: Slot) -> None:
        self.slot = slot
        self._wakeup.wake()

    def turn_away(self, error: Exception) -> None:
        """There will be no slot: take() raises this."""
        self._refusal = error
        self._wakeup.wake()

    def wait(self, seconds: float) -> bool:
        """Whether there is a slot, or an error, after so many seconds at most."""
        # The wakeup is only a hint: who serves may be interrupted between the two.
        if self.slot is None and self._refusal is None:
            self._wakeup.wait(seconds)
        return self.slot is not None or self._refusal is not None

    def take(self) -> Slot:
        self.expecting = False
        if self._refusal is not None:
            raise self._refusal
        slot, self.slot = self.slot, None
        assert slot is not None
        return slot

    def expect_again(self) -> None:
        self.expecting = True


class Queue:
    """The waiters of one pool."""

    def __init__(self, name: str, slots: Slots, resting: Resting, health: Health) -> None:
        self.waiters: deque[Waiter] = deque()
        self.match = Coalesced(self._serve_waiters)
        self._name = name
        self._slots = slots
        self._resting = resting
        self._health = health
        self._growth = slots.growth
        self._counts = slots.counts
        self._journal = slots.journal
        self._numbers = itertools.count(1)

    # -- waiting -----------------------------------------------------------------------------

    def wait(self, affinity: object, deadline: float | None, began: float | None, counted: bool) -> Slot:
        """Stand in the queue; see ``Pool.checkout``."""
        started = time.monotonic()
        if began is None:
            began = started
        impatient = deadline is not None and deadline <= started
        waiter = Waiter(next(self._numbers), affinity, impatient, self._slots.driver.wakeup())
        try:
            self.waiters.append(waiter)
            # What is free, but for idle connections, could only be the head's, who has checked for it.
            if impatient or self._slots.idle_count or self._head() is waiter or self._growth.outage:
                self.match()
            slot = self._wait_for_slot(waiter, deadline, started, began, counted)
            self._counts.queued += 1
            return slot
        except BaseException:
            self._leave(waiter)
            raise
        finally:
            waited = time.monotonic() - started
            self._counts.waits.observe(waited)
            if waited > self._counts.longest_wait_seconds:
                self._counts.longest_wait_seconds = waited

    def _wait_for_slot(
        self, waiter: Waiter, deadline: float | None, started: float, began: float, counted: bool
    ) -> Slot:
        """What a waiter in the queue gets. Raises CheckoutTimeout and ServerAway."""
        most = self._slots.limits.max_waiting
        admitted = most is None
        while True:
            while not waiter.wait(self._seconds_to_sleep(deadline if admitted else started)):
                now = time.monotonic()
                if self.match.running:
                    # Another native thread is handing out this instant, maybe to us.
                    pass
                elif not admitted:
                    if most is not None and len(self.waiters) > most:
                        raise self.refusal(0.0, f"MAX_WAITING ({most}) callers are already waiting", counted)
                    admitted = True
                elif deadline is not None and now >= deadline:
                    waited = now - began if began < deadline else 0.0
                    raise self.refusal(waited, f"waited {waited:.1f} s", counted)
                self.match()
            slot = waiter.take()
            if slot.connection is None or self._health.fit(slot):
                return slot
            waiter.expect_again()
            self._return(waiter)
            self._slots.close(slot)

    def _seconds_to_sleep(self, deadline: float | None) -> float:
        if deadline is None:
            return RECHECK_INTERVAL
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return SPIN_INTERVAL if self.match.running else 0.0
        return min(remaining, RECHECK_INTERVAL)

    def _return(self, waiter: Waiter) -> None:
        """To its old place: others whose connections were broken, too, may be back before it."""
        earlier = sum(other.number < waiter.number for other in list(self.waiters))
        self.waiters.insert(earlier, waiter)

    def _leave(self, waiter: Waiter) -> None:
        if not waiter.expecting:
            return
        was_first = self._head() is waiter
        try:
            self.waiters.remove(waiter)
        except ValueError:
            # Removed for a slot, which is on its way from another native thread, or here already.
            if waiter.wait(1.0) and waiter.slot is not None:
                self._slots.put_back(waiter.take())
        else:
            if was_first and self.waiters:
                # Whoever is first now may be allowed to open, and has not checked since.
                self.match()

    def _head(self) -> Waiter | None:
        try:
            return self.waiters[0]
        except IndexError:
            return None

    # -- matching ------------------------------------------------------------------------------

    def _serve_waiters(self) -> None:
        slots = self._slots
        while self.waiters and (slots.idle_count or len(self._resting) or slots.has_room):
            match = self._next_match()
            if match is None:
                break
            waiter, slot = match
            try:
                self.waiters.remove(waiter)
                waiter.serve(slot)
            except ValueError:
                # It gave up this instant.
                slots.put_back(slot)
            except BaseException:
                # A signal's exception: nobody else would serve this waiter again.
                if waiter.slot is None and waiter not in self.waiters:
                    self._return(waiter)
                raise
        if self.waiters and self._growth.fails_fast(time.monotonic(), self._slots.limits.connect_retry):
            # Somebody is trying again for all.
            self.turn_away()

    def _next_match(self) -> tuple[Waiter, Slot] | None:
        """The first waiter for whom there is something, and what that is."""
        head = self._head()
        if head is None:
            return None
        affinity = head.affinity
        slot = self._slots.claim_any(affinity) or self._bare_slot(head) or self._resting.claim_any(affinity)
        if slot is not None:
            return head, slot
        unused: list[Slot | Rest] = [*self._slots.idle(), *self._resting.all()]
        if any(each.affinity is not affinity for each in unused):
            # Of other hubs, and the head must not open in their place yet.
            for waiter in list(self.waiters):
                slot = self._slots.claim_any(waiter.affinity) or self._resting.claim_any(waiter.affinity)
                if slot is not None:
                    return waiter, slot
        return None

    def _bare_slot(self, waiter: Waiter) -> Slot | None:
        if not waiter.impatient and not self.may_open(waiter.affinity):
            return None
        slot = self._slots.new(waiter.affinity)
        if slot is None:
            # A connection of another hub is of no use to this waiter, but its place is.
            for foreign in self._slots.idle():
                if foreign.affinity != waiter.affinity and self._slots.claim(foreign):
                    self._slots.discard(foreign, Closed.SURPLUS)
                    return self._slots.new(waiter.affinity)
        return slot

    def may_open(self, affinity: object) -> bool:
        """Whether one more connection may be opened at this moment."""
        others = self._growth.away and self.others_may_come_back(affinity)
        return self._growth.may_begin(time.monotonic(), others)

    # -- while there is nothing to wait for ---------------------------------------------------------

    def turn_away(self) -> None:
        """While the server is away: all waiters but those to whom a good connection may come back."""
        if self._growth.last_error is None:
            return
        at, error = self._growth.last_error
        for waiter in list(self.waiters):
            if self.others_may_come_back(waiter.affinity):
                continue
            try:
                self.waiters.remove(waiter)
            except ValueError:
                # Another native thread serves it, or turns it away.
                continue
            ago = time.monotonic() - at
            waiter.turn_away(
                ServerAway(f"pool {self._name!r}: connecting failed {ago:.1f} s ago, not tried again", error)
            )

    def others_may_come_back(self, affinity: object) -> bool:
        """Whether somebody has a good connection of this affinity."""
        return any(
            slot.affinity == affinity and slot.connection is not None and not self._health.is_suspect(slot)
            for slot in self._slots.all()
        )

    def refusal(self, waited: float, why: str, counted: bool = True) -> CheckoutTimeout:
        """The error for a caller that gets no connection; it is counted and logged if ``counted``."""
        now = time.monotonic()
        held = [slot for slot in self._slots.all() if slot.taken_at]
        figures = self.figures()
        message = (
            f"No connection from pool {self._name!r}: {why}; {figures['in_use']} in use, "
            f"{figures['idle']} idle, {figures['opening']} opening, {figures['waiting']} waiting, "
            f"max_outstanding {figures['max_outstanding']}."
        )
        if held:
            longest = min(held, key=lambda slot: slot.taken_at)
            message += f" Held longest: {now - longest.taken_at:.1f} s by {redact(longest.holder)}."
        if self._growth.last_error is not None:
            at, error = self._growth.last_error
            message += f" Last connect error, {now - at:.1f} s ago: {redact(error)}."
        refusal = CheckoutTimeout(message, waited)
        if counted:
            self._counts.timeouts += 1
            self._journal.trouble("timeout", refusal, seconds=waited, **figures)
        return refusal

    def figures(self) -> dict[str, Any]:
        """Counts of this moment, read without stopping anybody."""
        idle, opening = self._slots.idle_count, len(self._growth)
        return {
            "in_use": max(0, len(self._slots) - idle - opening),
            "idle": idle,
            "opening": opening,
            "waiting": len(self.waiters),
            "max_outstanding": self._slots.limits.max_outstanding,
        }
