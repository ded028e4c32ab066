"""Statements that were given up: ended at the server, and counted until then.

Cutting a connection doesn't end what the server executes for it, with its locks. So whoever gives one up
notes it here, which is no I/O and no switch, and goes on. A native thread has the server end the session;
then the connection is dropped and its slot is free. That takes milliseconds. Where nobody answers, the
housekeeper drops it, or whoever waits. The thread is native under gevent, too: that of a greenlet may be
busy or end, and a forked child has no native threads that would go on with what is its parent's.
"""

from __future__ import annotations

import math
import time
from collections import deque
from contextlib import suppress

from django_db_pooling.log import redact
from django_db_pooling.pool.driver import Driver
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.slots import Slots
from django_db_pooling.pool.stats import Closed
from django_db_pooling.process import fork, green
from django_db_pooling.process.deadline import SHORTEST
from django_db_pooling.process.observers import observers

# The slot of a statement that was given up counts for so many seconds at most.
END_TIME = 1.0
# So many are ended at a time, each by itself; where one message ends all, one at a time.
AT_A_TIME = 4


class Ending:
    """A connection whose session is to be ended, until a time of ``time.monotonic()``."""

    __slots__ = ("connection", "reason", "slot", "until")

    def __init__(self, slot: Slot, reason: Closed | None, until: float) -> None:
        self.slot = slot
        self.connection = slot.connection
        self.reason = reason
        self.until = until


class Endings:
    """Those of one pool."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._driver: Driver = slots.driver
        self._process = fork.process
        # By number of the slot, to which nobody else refers.
        self.all: dict[int, Ending] = {}
        # Those that nobody is at yet.
        self._waiting: deque[Ending] = deque()
        # Whoever removes one may end something, and puts it back.
        self._permits: deque[None] = deque([None] * (1 if slots.driver.ends_elsewhere else AT_A_TIME))

    def give_up(self, slot: Slot, reason: Closed | None = None, error: BaseException | None = None) -> None:
        """As ``Slots.discard``, for a connection of which the server may be executing something.

        ``error``: by which its holder has found that it gets no answer. No I/O, no switch.
        """
        slots = self._slots
        if not fork.is_own(self._process) or not self.is_executing(slot, error):
            slots.discard(slot, reason)
            return
        slots.counts.abandoned += 1
        now = time.monotonic()
        slots.count_held(slot, now)
        if not (slots.limits.cancel and self._driver.can_end) or fork.forks_silently():
            slots.discard(slot, reason)
            return
        # Nobody waits for it to come back.
        slot.validated_at = -math.inf
        ending = Ending(slot, reason, now + END_TIME)
        self.all[slot.number] = ending
        if self._driver.ends_elsewhere:
            slots.drop(slot)
        self._waiting.append(ending)
        self._start()

    def is_executing(self, slot: Slot, error: BaseException | None = None) -> bool:
        """Whether the server may be, for a connection that isn't given up yet. No I/O."""
        if slot.connection is None or not slot.opened_at or slot.number in self.all:
            return False
        try:
            return self._driver.is_executing(slot.connection, error)
        except Exception as failure:
            observers.failed("looking for a statement", failure)
            return False

    def _start(self) -> None:
        # Written before it is read: who puts a permit back looks for what waits then.
        if self._permits:
            with suppress(RuntimeError):
                green.start_native(self._work)

    def look_after(self) -> None:
        """Drop those that take too long, and see to it that somebody is at the others. No I/O, no switch."""
        self.drop_overdue()
        if self._waiting:
            self._start()

    def drop_overdue(self) -> None:
        now = time.monotonic()
        for ending in list(self.all.values()):
            if now >= ending.until:
                self._claim(ending)
                self._end(ending)

    # -- in a native thread ----------------------------------------------------------

    def _work(self) -> None:
        """Until nothing waits, or enough others are at it."""
        while self._waiting and fork.is_own(self._process):
            try:
                self._permits.pop()
            except IndexError:
                return
            try:
                self._end_next()
            finally:
                self._permits.append(None)

    def _end_next(self) -> None:
        endings = self._take()
        if not endings:
            return
        try:
            seconds = max(endings[0].until - time.monotonic(), SHORTEST)
            self._driver.end([ending.connection for ending in endings], seconds)
        except Exception as error:
            self._slots.journal.note("not_ended", error=redact(error))
        finally:
            self._end_all(endings)

    def _take(self) -> list[Ending]:
        """What one call ends, first come, first served."""
        waiting = list(self._waiting)
        if self._driver.ends_elsewhere:
            waiting = [one for one in waiting if one.slot.affinity == waiting[0].slot.affinity]
            return [one for one in waiting if self._claim(one)]
        return next(([one] for one in waiting if self._claim(one)), [])

    def _claim(self, ending: Ending) -> bool:
        try:
            self._waiting.remove(ending)
        except ValueError:
            return False
        return True

    def _end_all(self, endings: list[Ending]) -> None:
        for ending in endings:
            self._end(ending)

    def _end(self, ending: Ending) -> None:
        # In this order: if this is interrupted, the housekeeper finds it again.
        self._slots.discard(ending.slot, ending.reason)
        self.all.pop(ending.slot.number, None)
