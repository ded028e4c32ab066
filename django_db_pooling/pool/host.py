"""The share of one pool in what all processes of the host may have open together (HOST_LIMIT).

Each connection has a byte of a file, locked for as long as there is a slot for it, so the kernel counts, and
what a process had is free when it ends. Who finds no free byte makes that known by locks further on in the
file, and tries again every few milliseconds. A process that has more than its fair share, the limit divided
by the processes that have or want any, gives back to those who have less. What nobody has used for a while it
gives to anybody.

Only ``take`` and ``release`` are about a single slot; both are called while a connection is opened or closed,
never for one that is idle.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Protocol

from django_db_pooling.log import redact
from django_db_pooling.pool.host_bytes import Bytes
from django_db_pooling.pool.host_needs import END, FIRST, LIMITS, NEEDED, PRESENT, WANTED, Needs
from django_db_pooling.pool.journal import Journal
from django_db_pooling.pool.limits import Limits
from django_db_pooling.process import fork
from django_db_pooling.process.record_locks import RecordLocks

# Seconds between two looks for a free byte: of the first who waits; of the others, who may be first by now.
POLL = 0.025
SLOW_POLL = 0.2
# However many wait, they look no more often together.
EACH_POLLS = 0.004
# Seconds between two looks at what others need, of those who close connections for them.
LOOK = 0.01
# What has been idle for so many seconds is given to whoever waits.
SPARE_AFTER = 1.0
# For so many seconds the others are told of somebody who doesn't wait in line.
MISSED = 1.5
# Seconds between two looks whether the file is still there.
FILE_CHECK = 10.0


class Shared(Protocol):
    """The slots of a pool, as its share knows them."""

    host_cap: float
    journal: Journal
    by_number: Mapping[int, Any]

    @property
    def limits(self) -> Limits: ...


class HostShare:
    """Of one pool."""

    def __init__(self, slots: Shared, locks: RecordLocks, limit: int) -> None:
        self._slots = slots
        self.locks = locks
        self._own_limit = limit
        self._process = fork.process
        self._bytes = Bytes(locks, limit)
        self._needs = Needs(locks)
        # The last look for a free byte found none; there is no other before a time.
        self.is_short = False
        self._full_until = self._missed_until = 0.0
        # How many connections others wait for: idle ones are closed for them.
        self.to_spare = 0
        self._looked_at = self._checked_at = 0.0
        # A daemon may have closed all descriptors since the file was opened.
        locks.is_same_file()
        self._opened = locks.opened
        self._find_limit()

    # -- a byte for a slot -----------------------------------------------------------------

    @property
    def is_present(self) -> bool:
        """Whether this process has or wants connections, or has to be looked after for another reason."""
        return self._needs.place is not None or not self._bytes.is_settled

    @property
    def has_room(self) -> bool:
        """Whether it makes sense to look for a free byte: there was one a moment ago, and others can wait."""
        if self.is_short and time.monotonic() < self._full_until:
            return False
        # Who has none always looks: the others wait for theirs, too, and somebody has to be the next.
        return not len(self._slots.by_number) or self.leaves(1)

    def take(self, number: int) -> bool:
        """A byte for the slot of this number, which the caller has just added."""
        try:
            self._needs.take_place()
            taken = not self._others_come_first() and self._bytes.take(number)
        except OSError as error:
            self._note_failure(error)
            # The next look may find a byte; upkeep may not be running.
            self._find_file()
            taken = False
        self._full_until = 0.0 if taken else time.monotonic() + POLL / 2
        self.is_short = not taken
        return taken

    def _others_come_first(self) -> bool:
        """Those who have nothing come before who has something, those below their share before the rest."""
        own = len(self._bytes)
        if not own or self.locks.find_other(FIRST, WANTED) is None:
            return False
        needed = self.locks.count_others(FIRST, NEEDED)
        if own >= self.fair_share:
            needed += self.locks.count_others(NEEDED, WANTED)
        return needed >= self.limit - self.open

    def missed(self) -> None:
        """Somebody who doesn't wait in line has found no room, and will look again: a warm-up, MIN_SIZE."""
        self._missed_until = time.monotonic() + MISSED

    def release(self, number: int) -> None:
        """Its slot is gone. Nothing here fails."""
        try:
            if self._bytes.release(number) and not len(self._bytes) and self._slots.host_cap < 1:
                # The last one, for somebody else who has none: they look first.
                self.is_short, self._full_until = True, time.monotonic() + 2 * POLL
        except OSError as error:
            self._note_failure(error)

    def poll_after(self, is_first: bool, waiting: int) -> float:
        """Seconds until who waits looks for a free byte again."""
        return POLL if is_first and self.is_short else max(SLOW_POLL, waiting * EACH_POLLS)

    def _find_file(self) -> None:
        """Whether it is still there, and its descriptor, which others may have closed."""
        try:
            self.locks.is_same_file()
            if self._opened != self.locks.opened:
                self._begin_anew()
        except OSError as error:
            self._note_failure(error)

    def _note_failure(self, error: OSError) -> None:
        self._checked_at = 0.0
        self._slots.journal.note("host_limit_failed", error=redact(error))

    # -- what there is ------------------------------------------------------------------------

    @property
    def limit(self) -> int:
        """The lowest that any process of the host has."""
        return self._bytes.limit

    @property
    def open(self) -> int:
        """How many connections all processes have, those that are being opened, too."""
        return self._bytes.of_all

    @property
    def processes(self) -> int:
        """How many have or want some, with this one."""
        return 1 + self.locks.count_others(PRESENT, LIMITS)

    @property
    def fair_share(self) -> int:
        return self.limit // self.processes

    @property
    def least(self) -> int:
        """How many of ours may stay, however long they have been idle."""
        least = self._slots.limits.min_size
        return min(least, self.limit // self.read()[2]) if least else 0

    def read(self) -> tuple[int, int, int]:
        """The limit, how many connections are open, and in how many processes."""
        try:
            return self.limit, self.open, self.processes
        except OSError:
            return self.limit, len(self._bytes), 1

    # -- what this process needs, and what the others do --------------------------------------------

    def tell(self, waiting: int) -> None:
        """So many callers wait here: let the others know, where it is for want of a free byte."""
        needs = self._needs
        if not fork.is_own(self._process):
            # A greenlet that waited lives on in a forked child: what it would lock there is nobody's need.
            return
        if time.monotonic() < self._missed_until:
            waiting += 1
        if not waiting:
            self.is_short = False
        elif not self.is_short and not any(needs.told):
            return
        now = time.monotonic()
        if self.is_short and any(needs.told) and now - needs.told_at < LOOK:
            return
        try:
            needs.tell(self._wanted(waiting) if self.is_short else (0, 0, 0), now)
            if not (waiting or len(self._bytes)):
                needs.leave_place()
        except OSError as error:
            self._note_failure(error)

    def _wanted(self, waiting: int) -> tuple[int, int, int]:
        """Its first, what it lacks to its fair share, and more."""
        own, most = len(self._bytes), self._slots.limits.max_outstanding
        wanted = min(waiting, self.limit - own, self.limit if most is None else most - own)
        if wanted <= 0:
            return 0, 0, 0
        first = int(not own)
        needed = max(0, min(wanted - first, self.fair_share - own - first))
        return first, needed, wanted - first - needed

    def look(self) -> None:
        """What others need: how many of ours there may be meanwhile, and how many idle ones are too many."""
        self._looked_at = time.monotonic()
        cap, spare, own = math.inf, 0, len(self._slots.by_number)
        if self.locks.find_other(FIRST, END) is not None:
            pressing = self.locks.count_others(FIRST, WANTED) - (self.limit - self.open)
            if pressing > 0:
                cap = max(self.fair_share, own - pressing)
            spare = pressing + self.locks.count_others(WANTED, END)
        within = self._bytes.within_limit
        if within < own:
            # After the limit was lowered, or the file replaced. With less than one, nobody would be served.
            cap = min(cap, max(within, 1))
        self.to_spare, self._slots.host_cap = max(0, spare), cap

    def leaves(self, more: int) -> bool:
        """Whether the others leave us so many more than there are, by a look that isn't old."""
        slots = self._slots
        count = len(slots.by_number) + more
        if count > slots.host_cap and time.monotonic() - self._looked_at > LOOK:
            try:
                self.look()
            except OSError as error:
                self._note_failure(error)
        return count <= slots.host_cap

    # -- upkeep -------------------------------------------------------------------------------------

    def look_after(self, waiting: int) -> None:
        """Each second. Nothing here fails."""
        now = time.monotonic()
        if now - self._checked_at > FILE_CHECK or self._opened != self.locks.opened:
            self._find_file()
            self._checked_at = now
        try:
            self._find_limit()
            self._bytes.settle(self._slots.by_number)
            self._needs.settle(len(self._bytes) > 0)
            self.look()
        except OSError as error:
            self._note_failure(error)
        self.tell(waiting)

    def _begin_anew(self) -> None:
        """Somebody has removed the file."""
        self._opened = self.locks.opened
        self._bytes.forget()
        self._needs = Needs(self.locks)
        self._needs.take_place()

    def _find_limit(self) -> None:
        before, lowest = self.limit, self._own_limit
        self.locks.take(LIMITS + lowest, shared=True)
        while (found := self.locks.find_other(LIMITS, LIMITS + lowest)) is not None:
            lowest = found[0] - LIMITS
        self._bytes.limit = lowest
        if lowest not in (before, self._own_limit):
            self._slots.journal.note("host_limit", limit=lowest, own=self._own_limit)

    def set_limit(self, limit: int) -> None:
        """That of this process may have changed. Raises OSError."""
        if limit != self._own_limit:
            before, self._own_limit = self._own_limit, limit
            self.locks.release(LIMITS + before)
            self._find_limit()

    def end(self) -> None:
        """The pool has ended, or has no such limit any more: nothing is locked. Nothing here fails."""
        self._slots.host_cap = math.inf
        self._bytes.forget()
        try:
            self.locks.release(0, END)
        except OSError as error:
            self._note_failure(error)
