"""What a pool has: its slots, and the cap on them.

This file alone changes ``_slots`` and ``_idle``. There are never more physical connections than the cap
(``max_outstanding``), since each has a slot of its own, and a slot

- is added to ``_slots`` only by ``new``, before its socket exists, and removed again if it is one too many:
  of two threads that add the last one both may fail, but not both succeed;
- is removed only by ``_forget``, after its socket is closed, and by ``free_lost``, when it is gone and its
  connection with it.

When the cap is lowered, no slot is added until there are fewer. No slot has two users, since whoever adds
one, or removes it from ``_idle``, has it. Nothing here waits or knows who waits: ``on_freed`` is called
instead.
"""

from __future__ import annotations

import itertools
import math
import time
import weakref
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sized
from functools import partial
from typing import Protocol

from django_db_pooling.log import redact
from django_db_pooling.pool.driver import Driver
from django_db_pooling.pool.growth import Growth
from django_db_pooling.pool.histogram import BOUNDS
from django_db_pooling.pool.holders import request_label
from django_db_pooling.pool.host import HostShare
from django_db_pooling.pool.idle import Idle
from django_db_pooling.pool.journal import Journal
from django_db_pooling.pool.limits import Limits
from django_db_pooling.pool.pausing import STALE, Pause
from django_db_pooling.pool.slot import Reclaims, Slot
from django_db_pooling.pool.stats import Closed, Counts
from django_db_pooling.process import fork
from django_db_pooling.process.observers import observers

# A server may count a connection until it has read its end: seconds to wait for it at the cap.
CLOSE_WAIT = 0.05
# Who waits for one that was checked out within so many seconds doesn't look whether it is alive.
FRESH = 1.0
# A finalizer has run so many seconds after the last reference to its slot is gone, or never will.
FINALIZER_TIME = 2.0


class Bounded(Reclaims, Protocol):
    """The pool, as far as its slots know it."""

    limits: Limits
    # While True, connections are closed as they come back.
    closing: bool


class Slots(Idle):
    """All slots of a pool, those that are idle, and how each becomes free."""

    def __init__(
        self, pool: Bounded, driver: Driver, growth: Growth, counts: Counts, journal: Journal
    ) -> None:
        self.driver = driver
        self.growth = growth
        self.counts = counts
        self.journal = journal
        # Connections of another one are closed at checkin.
        self.generation = 0
        self.pause = Pause(journal)
        super().__init__()
        # Called when a caller that waits may be served; and whether there are any.
        self.on_freed: Callable[[], None] = lambda: None
        self.waiting: Sized = ()
        # Whether one that has just come back was given to one of them; and whether it needs no look.
        self.hand_over: Callable[[Slot, bool], bool] = lambda slot, is_fresh: False
        # Discards one for which the server may be executing something; and those of which that isn't over.
        self.give_up: Callable[[Slot, Closed], None] = self.discard
        self.ending: Sized = ()
        self.drop_overdue: Callable[[], None] = lambda: None
        self._pool = pool
        self._process = fork.process
        self._numbers = itertools.count(1)
        # In whatever state: len() is what the cap bounds.
        self._slots: dict[int, weakref.ref[Slot]] = {}
        self.by_number: Mapping[int, object] = self._slots
        # What all processes of the host share, and how many slots the others leave this pool.
        self.host: HostShare | None = None
        self.host_cap = math.inf
        # Numbers of slots that are gone and still counted, and since when.
        self._lost: dict[int, float] = {}

    # -- what there is -----------------------------------------------------------------------

    def __len__(self) -> int:
        """How many there are, in any state."""
        return len(self._slots)

    @property
    def limits(self) -> Limits:
        return self._pool.limits

    @property
    def is_closing(self) -> bool:
        return self._pool.closing

    @property
    def has_room(self) -> bool:
        cap = self._pool.limits.max_outstanding
        if (cap is not None and len(self._slots) >= cap) or self.pause.is_on:
            return False
        return self.host is None or self.host.has_room

    @property
    def room(self) -> float:
        """How many more could be opened: what is idle may give way to them."""
        if self.host is not None and self.host.is_short:
            return len(self._idle)
        cap = self._pool.limits.max_outstanding
        return math.inf if cap is None else cap - len(self._slots) + len(self._idle)

    @property
    def is_over_cap(self) -> bool:
        """After the cap was lowered, or while other processes need some of ours."""
        cap = self._pool.limits.max_outstanding
        if cap is not None and len(self._slots) > cap:
            return True
        return self.host is not None and not self.host.leaves(0)

    def all(self) -> list[Slot]:
        return [slot for ref in list(self._slots.values()) if (slot := ref()) is not None]

    def wants(self, slot: Slot) -> bool:
        """Whether this connection may be used again; one that may not should be closed."""
        cap = self._pool.limits.max_outstanding
        return not (
            self._pool.closing
            or slot.generation != self.generation
            or time.monotonic() >= slot.expires_at
            or (cap is not None and len(self._slots) > cap)
            or (len(self._slots) > self.host_cap and self.is_over_cap)
        )

    # -- adding one, and claiming an idle one ------------------------------------------------------

    def new(self, affinity: object) -> Slot | None:
        """A bare slot, whose holder opens a connection; None where there is no room."""
        if not self.has_room:
            return None
        slot = Slot(self._pool, next(self._numbers), self.generation, affinity)
        self._slots[slot.number] = weakref.ref(slot)
        self.growth.of(affinity).begin(slot.number, time.monotonic())
        cap = self._pool.limits.max_outstanding
        is_over = (cap is not None and len(self._slots) > cap) or self.pause.is_on
        if is_over or not (self.host is None or self.host.take(slot.number)):
            # Another native thread has added one or paused at the same moment, or other processes have all
            # others.
            self._forget(slot)
            return None
        return slot

    def pop(self, affinity: object) -> Slot | None:
        """The one that was used last, if it has this affinity."""
        try:
            # Looked at before it is popped: meanwhile it would be hidden from those whom it fits.
            if self._idle[-1].affinity != affinity:
                return None
            slot = self._idle.pop()
        except IndexError:
            return None
        if slot.affinity == affinity:
            return slot
        # Another one, put there this instant.
        self.put_back(slot)
        return None

    # -- giving one back ---------------------------------------------------------------------

    def checkin(self, slot: Slot) -> None:
        """Give a clean connection back. No I/O, no switch: safe in a finalizer and in the hub."""
        if slot.connection is None:
            self.discard(slot)
            return
        assert slot.taken_at, "a slot that is not checked out can't be checked in"
        slot.returned_at = now = time.monotonic()
        # As count_held() does, without a call.
        held = now - slot.taken_at
        helds = self.counts.helds
        try:
            helds.buckets[bisect_left(BOUNDS, held)] += 1
            helds.seconds += held
        except Exception as error:
            observers.failed("counting", error)
        slot.taken_at = 0.0
        slot.holder = None
        if slot.overdue is not None:
            _note_return(self.journal, slot, held)
        if self.waiting and self.hand_over(slot, held < FRESH):
            return
        self._idle.append(slot)
        if self.waiting:
            self.on_freed()

    def count_held(self, slot: Slot, now: float) -> None:
        """This checkout of it has ended."""
        if slot.taken_at:
            held = now - slot.taken_at
            self.counts.helds.observe(held)
            if slot.overdue is not None:
                _note_return(self.journal, slot, held)
        slot.taken_at = 0.0
        slot.holder = None

    def put_back(self, slot: Slot) -> None:
        """Make it idle."""
        if slot.connection is None:
            self.discard(slot)
            return
        self._idle.append(slot)
        if self.waiting:
            self.on_freed()

    def close(self, slot: Slot, reason: Closed | None = None) -> None:
        """Close a connection as its protocol wants it (I/O) and free its slot, whatever happens."""
        try:
            self._say_goodbye(slot)
        finally:
            self.discard(slot, reason)

    def make_bare(self, slot: Slot, affinity: object, reason: Closed | None = None) -> None:
        """Close its connection (I/O), for its holder to open another one in its place."""
        self.growth.of(affinity).begin(slot.number, time.monotonic())
        # Whatever interrupts this: nobody uses it.
        slot.expires_at = 0.0
        try:
            self._say_goodbye(slot)
        finally:
            self.drop(slot)
            self._count_closed(slot, reason)
            generation = self.generation
            slot.renew(STALE if self.pause.is_on else generation, affinity, self.driver.hub())

    def _say_goodbye(self, slot: Slot) -> None:
        """Where that can be done: in its own hub."""
        close_wait = 0.0 if self.has_room and self.host is None else CLOSE_WAIT
        try:
            if slot.connection is not None and slot.hub is self.driver.hub() and not self._is_inherited(slot):
                self.driver.close(slot.connection, close_wait)
        except Exception as error:
            self.journal.note("close_failed", error=redact(error))

    def drop(self, slot: Slot) -> None:
        """Drop its connection without a word to the server; the slot is still taken. No I/O, no switch."""
        connection, slot.connection = slot.connection, None
        if connection is not None:
            try:
                self.driver.drop(connection)
            except Exception as error:
                self.journal.note("drop_failed", error=redact(error))

    def _count_closed(self, slot: Slot, reason: Closed | None) -> None:
        self.counts.broken += reason is Closed.BROKEN
        if slot.opened_at:
            # One that failed while it was set up never counted as opened.
            reason = reason or self._reason(slot)
            self.counts.closed[reason] += 1
            if self.journal.is_verbose:
                seconds = time.monotonic() - slot.opened_at
                self.journal.note("closed", connection=slot.number, seconds=seconds, reason=str(reason))

    def discard(self, slot: Slot, reason: Closed | None = None) -> None:
        """Drop a connection without a word to the server and free its slot. No I/O, no switch.

        ``reason``: where it isn't what the slot says. Discarding twice is harmless: the slot is freed
        once. One that is being opened in another thread is dropped when that ends.
        """
        if slot.attempt is not None and not slot.attempt.is_over:
            slot.attempt.when_over(partial(self.discard, slot, reason))
            return
        if self._is_inherited(slot):
            return
        self.drop(slot)
        if self._forget(slot):
            self.count_held(slot, time.monotonic())
            self._count_closed(slot, reason)
            self.on_freed()

    def _forget(self, slot: Slot) -> bool:
        """Take a slot out of the count: True for whoever comes first, so none is freed twice."""
        self.growth.end(slot.number)
        is_first = self._slots.pop(slot.number, None) is not None
        if self.host is not None:
            self.host.release(slot.number)
        return is_first

    def _is_inherited(self, slot: Slot) -> bool:
        """Whether this is a forked child of the pool's process: there the connection must not be touched."""
        if fork.is_own(self._process):
            return False
        if slot.connection is not None:
            fork.never_free(slot.connection)
        return True

    def _reason(self, slot: Slot) -> Closed:
        """Why a connection is closed."""
        if slot.broken:
            return Closed.BROKEN
        if self._pool.closing or slot.generation != self.generation:
            return Closed.RECYCLED
        if time.monotonic() >= slot.expires_at:
            return Closed.AGE
        return Closed.SURPLUS if self.is_over_cap else Closed.UNCLEAN

    # -- those whose holder is gone ----------------------------------------------------------------

    def reclaim(self, slot: Slot) -> None:
        """The last reference to a slot is gone. Called by its finalizer, anywhere."""
        if slot.number not in self._slots or self._is_inherited(slot):
            return
        self.counts.reclaimed += 1
        holder = slot.holder
        self.give_up(slot, Closed.UNCLEAN)
        self.journal.note("reclaimed", request=request_label(holder))

    def free_lost(self) -> None:
        """Free those whose finalizer was interrupted, as by a thread's asynchronous exception.

        Their connections need no close: only the slot referred to them.
        """
        now = time.monotonic()
        lost = [number for number, ref in list(self._slots.items()) if ref() is None]
        # The garbage collector clears references first, and calls finalizers then.
        self._lost = {number: self._lost.get(number, now) for number in lost}
        for number, since in self._lost.items():
            if now - since >= FINALIZER_TIME:
                # In this order, as in _forget(): what is interrupted between the two is done again.
                self.growth.end(number)
                self.counts.reclaimed += self._slots.pop(number, None) is not None
                if self.host is not None:
                    self.host.release(number)
        if self.waiting:
            self.on_freed()


def _note_return(journal: Journal, slot: Slot, held: float) -> None:
    """It was logged that it was held for too long."""
    journal.note("came_back", seconds=held, holder=slot.overdue)
    slot.overdue = None
