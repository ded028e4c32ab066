"""The pool: bounded, newest idle first, first come first served.

Knows no Django, no driver and no gevent. A checkout gives a slot with a connection that looks usable, or a
bare slot: then its holder opens the connection itself, in its own thread or greenlet, and calls ``opened``
or ``open_failed``. Every checkout ends in one ``checkin``, ``close`` or ``discard``; a slot that is dropped
instead is reclaimed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from django_db_pooling.log import redact
from django_db_pooling.pool.driver import Driver
from django_db_pooling.pool.ending import Endings
from django_db_pooling.pool.growth import Growth
from django_db_pooling.pool.health import Health
from django_db_pooling.pool.journal import Journal
from django_db_pooling.pool.limits import Limits
from django_db_pooling.pool.maintenance import Maintenance
from django_db_pooling.pool.openings import Openings
from django_db_pooling.pool.queue import Queue
from django_db_pooling.pool.resting import Rest, Resting
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.slots import Slots
from django_db_pooling.pool.stats import Closed, Counts, PoolStats
from django_db_pooling.pool.waiter import Waiter


class Pool:
    """Connections to one database, for all threads and greenlets of one process."""

    # For people: where it leads, and the scope of requests.
    database = ""
    scope = ""
    # What callers get instead of a CheckoutTimeout, and what they are told to do.
    error_name = "CheckoutTimeout"
    remedy = "Return connections earlier, or allow more of them."

    def __init__(self, name: str, limits: Limits, driver: Driver) -> None:
        self.name = name
        self.limits = limits
        self.driver = driver
        # While True, connections are closed as they come back.
        self.closing = False
        self.growth = Growth(self.server_of)
        self.counts = Counts()
        self.journal = Journal(name)
        self.slots = slots = Slots(self, driver, self.growth, self.counts, self.journal)
        self.resting = Resting(slots)
        self.health = health = Health(slots)
        self.queue = Queue(name, slots, self.resting, health)
        self.queue.set_wait_target(limits.wait_target)
        self.queue.refusals.error_name, self.queue.refusals.remedy = self.error_name, self.remedy
        self.endings = Endings(slots)
        self.maintenance = Maintenance(slots, self.resting, health, self.endings)
        slots.waiting, slots.on_freed = self.queue.waiters, self.queue.match
        slots.hand_over = self.queue.hand_over
        slots.give_up, slots.ending = self.endings.give_up, self.endings.all
        slots.drop_overdue = self.endings.drop_overdue
        self.pause = slots.pause
        self.pause.on_begin, self.pause.on_end = self.recycle, self.queue.match
        self.openings = openings = Openings(slots, self.queue)
        # Methods of this pool, too, without a call in between: they are in slots.py, health.py, openings.py.
        self.wants, self.checkin, self.reclaim = slots.wants, slots.checkin, slots.reclaim
        self.is_suspect, self.suspect, self.validated = health.is_suspect, health.suspect, health.validated
        self.suspect_all, self.found_broken = health.suspect_all, health.found_broken
        self.opened, self.open_failed, self.retry_in = openings.opened, openings.failed, openings.retry_in
        self.server_full, self.should_queue_again = openings.server_full, openings.should_queue_again
        self.give_up = self.endings.give_up

    def server_of(self, affinity: Any) -> object:
        """Where connections of this affinity lead; None: where all do."""
        return None

    # -- checkout ----------------------------------------------------------------------------

    def take_idle(self, affinity: object, holder: object) -> Slot | None:
        """An idle connection at once, as ``checkout`` gives one; None where the caller has to queue."""
        if self.queue.waiters:
            return None
        slot = self.slots.pop(affinity)
        if slot is None:
            return None
        if not self.health.fit(slot):
            self.slots.close(slot)
            return None
        slot.holder = holder
        slot.taken_at = time.monotonic()
        self.counts.checkouts += 1
        return slot

    def checkout(
        self,
        deadline: float | None = None,
        holder: object = None,
        began: float | None = None,
        affinity: object = None,
        counted: bool = True,
        before_waiting: Callable[[Waiter], str | None] | None = None,
    ) -> Slot:
        """A slot with a connection, or a bare one to open.

        ``deadline``: of ``time.monotonic()``, None for no limit; one that has passed already never waits.
        ``began``: since when the caller has been waiting, if not from now. ``affinity``: which connections
        the caller can use: those opened for one that is equal; None: those of its hub. ``counted``: whether a
        timeout of this caller counts as one. ``before_waiting``: called in the queue, where it has to wait;
        the caller is refused where this says why that is of no use. Raises CheckoutTimeout and ServerAway.
        """
        if affinity is None:
            affinity = self.driver.hub()
        slot = None if self.queue.waiters else self.take_idle(affinity, holder)
        if slot is not None:
            return slot
        slot = self.queue.wait(affinity, deadline, began, counted, before_waiting, holder)
        slot.holder = holder
        slot.taken_at = time.monotonic()
        self.counts.checkouts += 1
        return slot

    def reopen(self, slot: Slot, reason: Closed | None = None) -> bool:
        """The holder can't use this connection: close it (I/O), and keep the slot, bare, to open another one.

        That doesn't make the pool grow, so it doesn't matter how many others are opening. False where one
        tries for all, or there are too many: then the slot is free, as when this is interrupted, and the
        holder queues again.
        """
        away = self.growth.of(slot.affinity).away
        if self.closing or away or self.slots.is_over_cap or self.pause.is_on:
            self.slots.close(slot, reason)
            return False
        try:
            self.slots.make_bare(slot, slot.affinity, reason)
        except BaseException:
            self.slots.discard(slot)
            raise
        return True

    # -- checkin -----------------------------------------------------------------------------

    def rest(self, slot: Slot, lent: bool = False) -> Rest:
        """Leave a changed session to its user until others need the connection. No I/O, no switch.

        ``lent``: or a clean one, while its user waits for another connection. Others have it at once.
        """
        rest = self.resting.rest(slot, lent)
        if lent and self.queue.waiters:
            self.queue.match()
        return rest

    def resume(self, rest: Rest) -> Slot | None:
        """What was left at rest, checked out as before; None where it isn't the caller's any more."""
        return self.resting.resume(rest)

    def close(self, slot: Slot, reason: Closed | None = None) -> None:
        """Close a connection as its protocol wants it (I/O) and free its slot, whatever happens.

        In another hub than its own, it is dropped.
        """
        self.slots.close(slot, reason)

    def discard(self, slot: Slot, reason: Closed | None = None) -> None:
        """Drop a connection without a word to the server and free its slot. No I/O, no switch."""
        self.slots.discard(slot, reason)

    # -- what operators and the housekeeper do ---------------------------------------------------------

    def resize(self, limits: Limits) -> None:
        """Other limits from now on. What is idle beyond the cap is closed here, beyond ``size`` by upkeep."""
        if limits != self.limits:
            self.journal.note("resized", size=limits.size, max_outstanding=limits.max_outstanding)
        self.limits = limits
        self.queue.set_wait_target(limits.wait_target)
        self.maintenance.close_surplus()
        self.queue.match()

    def recycle(self) -> None:
        """Replace every connection: the idle ones are closed here, the others as they come back."""
        self.slots.generation += 1
        if len(self.slots):
            self.journal.note("recycled")
        self.resting.end_all()
        self.drain()

    def drain(self) -> None:
        """Close what is idle."""
        self.maintenance.drain()

    def drain_here(self) -> None:
        """Close what is idle and belongs to this hub; others may be past closing theirs."""
        self.maintenance.drain_here()

    def close_idle(self, unwanted: Callable[[object], bool]) -> None:
        """Close what is idle and has an affinity for which ``unwanted`` is true."""
        self.maintenance.close_idle(unwanted)

    def maintain(self) -> None:
        """Close what isn't wanted any more, and write the log."""
        self.maintenance.run()

    def reserve_minimum(self, affinity: object = None, at_least: int = 0) -> Slot | None:
        """A bare slot for the caller to open and check in, while fewer than MIN_SIZE or ``at_least``."""
        if len(self.slots) >= max(self.least, at_least):
            return None
        return self.reserve(self.driver.hub() if affinity is None else affinity, "the housekeeper")

    def reserve(self, affinity: object, holder: object) -> Slot | None:
        """A bare slot for the caller to open and check in, without a place in the queue: who waits there gets
        what is opened so. None where there is no room, or others are opening.
        """
        if self.closing or not self.queue.may_open(affinity):
            return None
        slot = self.slots.new(affinity)
        if slot is None:
            if self.slots.host is not None and self.slots.host.is_short:
                self.slots.host.missed()
            # A match in another thread may have found no room because of this attempt.
            self.queue.match()
            return None
        slot.hub = self.driver.hub()
        slot.holder = holder
        slot.taken_at = time.monotonic()
        return slot

    @property
    def least(self) -> int:
        """How many connections are kept open: MIN_SIZE, or the share in HOST_LIMIT if that is less."""
        host = self.slots.host
        return self.limits.min_size if host is None else host.least

    # -- what there is -----------------------------------------------------------------------

    def __len__(self) -> int:
        """How many slots are taken, in any state."""
        return len(self.slots)

    def connections(self) -> list[Any]:
        """All physical connections, idle, in use and ending."""
        return [slot.connection for slot in self.slots.all() if slot.connection is not None]

    def holders(self) -> list[object]:
        """Of the connections that are checked out."""
        return [slot.holder for slot in self.slots.all() if slot.holder is not None]

    def holds_recycled(self, but: list[Slot]) -> bool:
        """Whether connections from before the last ``recycle`` are left, other than these."""
        generation = self.slots.generation
        return any(slot.generation != generation and slot not in but for slot in self.slots.all())

    def snapshot(self) -> PoolStats:
        """Counts of this moment, read without stopping anybody."""
        host = self.slots.host
        host_limit, host_open, _ = (None, None, None) if host is None else host.read()
        return PoolStats(
            alias=self.name,
            size=self.limits.size,
            open_when_refused=self.openings.when_refused(),
            host_limit=host_limit,
            host_open=host_open,
            paused=self.pause.left,
            **self.queue.figures(),
            **self.counts.read(),
        )

    def held(self) -> list[tuple[float, str]]:
        """Seconds, and who, for each connection that is checked out, the longest first."""
        now = time.monotonic()
        slots = sorted((slot for slot in self.slots.all() if slot.taken_at), key=lambda slot: slot.taken_at)
        return [(now - slot.taken_at, redact(slot.holder)) for slot in slots]
