"""The pool: bounded, newest idle first, first come first served.

Knows no Django, no driver and no gevent. What it hands over is a slot with a connection that
looks usable, or a bare slot: then the taker opens the connection itself, in its own thread or
greenlet, and says ``opened`` or ``open_failed``. Every slot ends in one ``checkin``, ``close``
or ``discard``; one that is dropped instead is reclaimed.
"""

from __future__ import annotations

import itertools
import math
import random
import time
import weakref
from bisect import bisect_left
from collections import deque
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol

from django_db_pooling.log import redact
from django_db_pooling.pool.coalesce import Coalesced
from django_db_pooling.pool.growth import Growth
from django_db_pooling.pool.histogram import BOUNDS
from django_db_pooling.pool.holders import Leaks, request_label
from django_db_pooling.pool.journal import Journal
from django_db_pooling.pool.limits import Limits
from django_db_pooling.pool.queue import Waiter
from django_db_pooling.pool.slots import Rest, Slot
from django_db_pooling.pool.stats import Closed, Counts, PoolStats, Trouble
from django_db_pooling.process import fork
from django_db_pooling.process.wakeup import Wakeup

# Waiters look for themselves this often (seconds): at openings that stall, and as a net.
RECHECK_INTERVAL = 0.5
# While another native thread is just handing out: seconds between looks.
SPIN_INTERVAL = 0.001
# Idle connections over `size` stay this many seconds.
EXCESS_STAYS = 10.0
# A server may count a connection until it has read its end: seconds to wait for it at the cap.
CLOSE_WAIT = 0.05
# A changed session outside of units of work stays its user's: for so many seconds although others wait, and
# for so many at most.
MIN_REST, MAX_REST = 1.0, 10.0
# A slot's finalizer has run so many seconds after its last reference has gone, or never will.
FINALIZED = 2.0
# Ages are cut by up to this share, so that what was opened together isn't closed together.
AGE_JITTER = 0.1
MAX_TROUBLES = 20


class Driver(Protocol):
    """What a pool needs to know about its connections. Only ``close`` may do I/O.

    ``wakeup``: what a caller of this thread or greenlet sleeps on.
    ``alive``: True, False, or None where only a question to the server could tell.
    ``close``: waits up to ``close_wait`` seconds for the server to have closed, too.
    """

    def affinity(self) -> object: ...

    def wakeup(self) -> Wakeup: ...

    def alive(self, connection: Any) -> bool | None: ...

    def drop(self, connection: Any) -> None: ...

    def close(self, connection: Any, close_wait: float) -> None: ...


class CheckoutTimeout(Exception):
    """No connection in time. ``waited``: seconds."""

    def __init__(self, message: str, waited: float) -> None:
        super().__init__(message)
        self.waited = waited


class ServerAway(Exception):
    """Opening has failed for too long to wait for it. ``error``: what the last attempt ended with."""

    def __init__(self, message: str, error: Exception) -> None:
        super().__init__(message)
        self.error = error


class Pool:
    """Connections to one database, for all threads and greenlets of one process."""

    def __init__(self, name: str, limits: Limits, driver: Driver) -> None:
        self.name = name
        self.limits = limits
        self.driver = driver
        # The server closes a connection by itself when it has been idle for so long (seconds).
        self.server_timeout = math.inf
        # Once True, nothing stays: connections are closed as they come back.
        self.closing = False
        self._process = fork.process
        self._generation = 0
        self._numbers = itertools.count(1)
        # All there are, in any state: len() is what max_outstanding bounds. A slot enters only
        # below the cap, before its socket exists, and leaves once, after its socket is closed.
        self._slots: dict[int, weakref.ref[Slot]] = {}
        # A stack. Whoever pops a slot, or removes it, has it.
        self._idle: deque[Slot] = deque()
        # Numbers of slots that are gone and still counted, and since when.
        self._dead: dict[int, float] = {}
        # Changed sessions whose users may come back for them. As above: whoever removes one has it.
        self._resting: deque[Rest] = deque()
        self.growth = Growth()
        # First come, first served. Membership is the claim: whoever removes a waiter must serve it.
        self._waiters: deque[Waiter] = deque()
        self._match = Coalesced(self._serve_waiters)
        self._suspect_before = -math.inf
        self.journal = Journal(name)
        self.leaks = Leaks(self.journal)
        self.counts = Counts()
        # The latest things that went wrong.
        self.troubles: deque[Trouble] = deque(maxlen=MAX_TROUBLES)

    # -- taking -------------------------------------------------------------------------------

    def checkout(
        self,
        deadline: float | None = None,
        holder: object = None,
        began: float | None = None,
        affinity: object = None,
        counted: bool = True,
    ) -> Slot:
        """A slot with a connection, or a bare one to open.

        ``deadline``: of ``time.monotonic()``, None for no limit; one that has passed already
        never waits. ``began``: since when the caller has been at it, if not from now. ``affinity``: what
        it needs instead of a connection of the driver's affinity at this moment. ``counted``: whether a
        timeout of this caller counts as one. Raises CheckoutTimeout and ServerAway.
        """
        if affinity is None:
            affinity = self.driver.affinity()
        slot = None if self._waiters else self._pop(affinity)
        if slot is not None and not self._fit(slot):
            self.close(slot)
            slot = None
        if slot is None:
            slot = self._queue(affinity, deadline, began, counted)
        slot.holder = holder
        slot.taken_at = time.monotonic()
        self.counts.checkouts += 1
        return slot

    def _pop(self, affinity: object) -> Slot | None:
        try:
            # Looked at before it is popped: meanwhile it would be hidden from those whom it fits.
            if self._idle[-1].affinity is not affinity:
                return None
            slot = self._idle.pop()
        except IndexError:
            return None
        if slot.affinity is affinity:
            return slot
        # Another one, put there this instant.
        self._put_back(slot)
        return None

    def _fit(self, slot: Slot) -> bool:
        """Whether a slot in our hands may be used; notes what it finds out."""
        try:
            if slot.generation != self._generation or time.monotonic() >= slot.expires_at:
                return False
            alive = self.driver.alive(slot.connection)
            if alive is False:
                self.counts.broken += 1
                slot.broken = True
                self.found_broken()
                return False
            if alive is None:
                self.suspect(slot)
            return True
        except BaseException:
            # The frames that the error refers to have the slot: it would last as long as the error.
            self.discard(slot)
            raise

    def _is_stale(self, slot: Slot) -> bool:
        return slot.generation != self._generation or time.monotonic() >= slot.expires_at

    def _queue(self, affinity: object, deadline: float | None, began: float | None, counted: bool) -> Slot:
        started = time.monotonic()
        if began is None:
            began = started
        impatient = deadline is not None and deadline <= started
        waiter = Waiter(next(self._numbers), affinity, impatient, self.driver.wakeup())
        try:
            self._waiters.append(waiter)
            # What is free, but for idle connections, could only be the head's, who has looked for it.
            if impatient or self._idle or self._head() is waiter or self.growth.outage:
                self._match()
            slot = self._wait_in_queue(waiter, deadline, started, began, counted)
            self.counts.queued += 1
            return slot
        except BaseException:
            self._leave(waiter)
            raise
        finally:
            waited = time.monotonic() - started
            self.counts.waits.observe(waited)
            if waited > self.counts.longest_wait_seconds:
                self.counts.longest_wait_seconds = waited

    def _wait_in_queue(
        self, waiter: Waiter, deadline: float | None, started: float, began: float, counted: bool
    ) -> Slot:
        """What comes for a waiter that stands in the queue. Raises CheckoutTimeout and ServerAway."""
        most = self.limits.max_waiting
        admitted = most is None
        while True:
            while not waiter.wait(self._sleep_limit(deadline if admitted else started)):
                now = time.monotonic()
                if self._match.running:
                    # Another native thread is handing out this instant, maybe to us.
                    pass
                elif not admitted:
                    if most is not None and len(self._waiters) > most:
                        why = f"MAX_WAITING ({most}) callers are already waiting"
                        raise self.refusal(0.0, why, counted)
                    admitted = True
                elif deadline is not None and now >= deadline:
                    waited = now - began if began < deadline else 0.0
                    raise self.refusal(waited, f"waited {waited:.1f} s", counted)
                self._match()
            slot = waiter.take()
            if slot.connection is None or self._fit(slot):
                return slot
            waiter.expect_again()
            self._return_to_queue(waiter)
            self.close(slot)

    def _sleep_limit(self, deadline: float | None) -> float:
        if deadline is None:
            return RECHECK_INTERVAL
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return SPIN_INTERVAL if self._match.running else 0.0
        return min(remaining, RECHECK_INTERVAL)

    def _return_to_queue(self, waiter: Waiter) -> None:
        """To its old place: others whose connections were dead, too, may be back before it."""
        earlier = sum(other.number < waiter.number for other in list(self._waiters))
        self._waiters.insert(earlier, waiter)

    def _leave(self, waiter: Waiter) -> None:
        if not waiter.expecting:
            return
        was_first = self._head() is waiter
        try:
            self._waiters.remove(waiter)
        except ValueError:
            # Claimed: a slot is on its way, from another native thread, or here already.
            if waiter.wait(1.0) and waiter.slot is not None:
                self._put_back(waiter.take())
        else:
            if was_first and self._waiters:
                # Whoever is first now may be allowed to open, and has not looked since.
                self._match()

    # -- matching: runs in one thread at a time, in anyone's, never blocks -----------------------

    def _head(self) -> Waiter | None:
        try:
            return self._waiters[0]
        except IndexError:
            return None

    def _serve_waiters(self) -> None:
        while self._waiters and (self._idle or self._resting or self._has_room()):
            match = self._next_match()
            if match is None:
                break
            waiter, slot = match
            try:
                self._waiters.remove(waiter)
                waiter.serve(slot)
            except ValueError:
                # It gave up this instant.
                self._put_back(slot)
            except BaseException:
                # A signal's exception: nobody else would think of this waiter again.
                if waiter.slot is None and waiter not in self._waiters:
                    self._return_to_queue(waiter)
                raise
        if self._waiters and self.growth.seen_away(time.monotonic(), self.limits.connect_retry):
            # Somebody is trying again for all.
            self._turn_waiters_away()

    def _turn_waiters_away(self) -> None:
        """While the server is away: unless somebody has a connection that may come back."""
        if self.growth.last_error is None:
            return
        at, error = self.growth.last_error
        for waiter in list(self._waiters):
            if self._others_may_come_back(waiter.affinity):
                continue
            try:
                self._waiters.remove(waiter)
            except ValueError:
                # Another native thread has thought of it.
                continue
            ago = time.monotonic() - at
            waiter.turn_away(
                ServerAway(f"pool {self.name!r}: connecting failed {ago:.1f} s ago, not tried again", error)
            )

    def _others_may_come_back(self, affinity: object) -> bool:
        return any(
            slot.affinity is affinity and slot.connection is not None and not self.is_suspect(slot)
            for slot in self._living()
        )

    def _next_match(self) -> tuple[Waiter, Slot] | None:
        """Whoever came first of those for whom there is something, and what it is."""
        head = self._head()
        if head is None:
            return None
        slot = self._idle_at(head.affinity) or self._bare_slot(head) or self._rested_at(head.affinity)
        if slot is not None:
            return head, slot
        unused: list[Slot | Rest] = [*list(self._idle), *list(self._resting)]
        if any(each.affinity is not head.affinity for each in unused):
            # Of other hubs, and the head must not open in their place yet.
            for waiter in list(self._waiters):
                slot = self._idle_at(waiter.affinity) or self._rested_at(waiter.affinity)
                if slot is not None:
                    return waiter, slot
        return None

    def _idle_at(self, affinity: object) -> Slot | None:
        for slot in reversed(list(self._idle)):
            if slot.affinity is affinity and self._claim_idle(slot):
                return slot
        return None

    def _claim_idle(self, slot: Slot) -> bool:
        try:
            self._idle.remove(slot)
        except ValueError:
            return False
        return True

    def _rested_at(self, affinity: object) -> Slot | None:
        now = time.monotonic()
        for rest in list(self._resting):
            if rest.affinity is affinity and now - rest.since >= MIN_REST:
                slot = self.resume(rest)
                if slot is not None:
                    self._count_held(slot, now)
                    return slot
        return None

    def _bare_slot(self, waiter: Waiter) -> Slot | None:
        if not waiter.impatient and not self._may_open(waiter.affinity):
            return None
        slot = self._new_slot(waiter.affinity)
        if slot is None:
            # A connection of another hub is of no use to this waiter, but its place is.
            for foreign in list(self._idle):
                if foreign.affinity is not waiter.affinity and self._claim_idle(foreign):
                    self.discard(foreign, Closed.SURPLUS)
                    return self._new_slot(waiter.affinity)
        return slot

    def _may_open(self, affinity: object) -> bool:
        others = self.growth.away and self._others_may_come_back(affinity)
        return self.growth.may_begin(time.monotonic(), others)

    def _has_room(self) -> bool:
        most = self.limits.max_outstanding
        return most is None or len(self._slots) < most

    def _new_slot(self, affinity: object) -> Slot | None:
        if not self._has_room():
            return None
        slot = Slot(self, next(self._numbers), self._generation, affinity)
        self._slots[slot.number] = weakref.ref(slot)
        self.growth.begin(slot.number, time.monotonic())
        if self._over_cap():
            # Another native thread had the same thought.
            self._forget(slot)
            return None
        return slot

    def _forget(self, slot: Slot) -> bool:
        """Take a slot out of the count: True for whoever comes first, so none is freed twice."""
        self.growth.end(slot.number)
        return self._slots.pop(slot.number, None) is not None

    # -- opening ----------------------------------------------------------------------------

    def opened(self, slot: Slot) -> None:
        """The taker of a bare slot has put a usable connection into it."""
        slot.opened_at = slot.validated_at = time.monotonic()
        age = self.limits.max_age
        cut = 1 - AGE_JITTER * random.random()
        slot.expires_at = math.inf if age is None else slot.opened_at + age * cut
        seconds = slot.opened_at - slot.taken_at
        self.counts.connects.observe(seconds)
        self.growth.end(slot.number)
        failed_at = self.growth.succeeded()
        self.counts.opened += 1
        self._match()
        if failed_at is not None:
            self.journal.note("connect_again", seconds=slot.opened_at - failed_at)
        if self.journal.is_verbose:
            self.journal.note("opened", connection=slot.number, seconds=seconds)

    def open_failed(self, slot: Slot, error: Exception) -> None:
        """The taker of a bare slot got this error instead of a connection; the slot is free again."""
        is_first = self.growth.gave_up(error, time.monotonic())
        self.note("connect", error, is_news=is_first)
        if self.growth.outage:
            self._turn_waiters_away()
        self.discard(slot)

    def retry_in(self, error: Exception, began: float, deadline: float | None) -> float | None:
        """The taker of a bare slot has found no server, with an attempt that began then.

        Seconds to wait before it tries again with this slot; 0: rather queue again, with another one,
        since others have connections that may come back; None: give up with this error.
        """
        max_wait, now = self.limits.connect_retry, time.monotonic()
        if max_wait <= 0:
            return None
        pause = self.growth.found_nobody(began, now, max_wait)
        self.growth.failed(error, now)
        if deadline is not None and now + (pause or 0.0) >= deadline:
            return None
        return 0.0 if self._others_may_come_back(self.driver.affinity()) else pause

    # -- giving back ------------------------------------------------------------------------

    def wants(self, slot: Slot) -> bool:
        """Whether this connection has a future here; without one it should be closed."""
        most = self.limits.max_outstanding
        return not (self.closing or self._is_stale(slot)) and (most is None or len(self._slots) <= most)

    def _over_cap(self) -> bool:
        """After the cap was lowered."""
        most = self.limits.max_outstanding
        return most is not None and len(self._slots) > most

    def checkin(self, slot: Slot) -> None:
        """Give a clean connection back. No I/O, no switch: safe in a finalizer and in the hub."""
        assert slot.taken_at or slot.connection is None, "a slot that is not checked out can't be checked in"
        slot.returned_at = now = time.monotonic()
        self._count_held(slot, now)
        self._put_back(slot)

    def _count_held(self, slot: Slot, now: float) -> None:
        if slot.taken_at:
            held = now - slot.taken_at
            # As observe() does, without a call.
            helds = self.counts.helds
            helds.buckets[bisect_left(BOUNDS, held)] += 1
            helds.seconds += held
            if slot.overdue is not None:
                self.leaks.came_back(slot, held)
        slot.taken_at = 0.0
        slot.holder = None

    def rest(self, slot: Slot) -> Rest:
        """Leave a changed session to its user until others need the connection. No I/O, no switch."""
        slot.returned_at = now = time.monotonic()
        rest = Rest(slot, now)
        self._resting.append(rest)
        return rest

    def resume(self, rest: Rest) -> Slot | None:
        """What was left at rest, checked out as before; None where it isn't the caller's any more."""
        try:
            self._resting.remove(rest)
        except ValueError:
            return None
        slot, rest.slot = rest.slot, None
        return slot

    def _end_rest(self, rest: Rest) -> None:
        """Its user doesn't come back for it: the next taker makes its session as new."""
        slot = self.resume(rest)
        if slot is not None:
            self.checkin(slot)

    def _put_back(self, slot: Slot) -> None:
        if slot.connection is None:
            self.discard(slot)
            return
        self._idle.append(slot)
        if self._waiters:
            self._match()

    def close(self, slot: Slot, reason: Closed | None = None) -> None:
        """Close a connection as its protocol wants it (I/O) and free its slot, whatever happens."""
        most = self.limits.max_outstanding
        at_cap = most is not None and len(self._slots) >= most
        try:
            if slot.connection is not None and not self._is_inherited(slot):
                self.driver.close(slot.connection, CLOSE_WAIT if at_cap else 0.0)
        except Exception as error:
            self.journal.note("close_failed", error=redact(error))
        finally:
            self.discard(slot, reason)

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
        connection, slot.connection = slot.connection, None
        if connection is not None:
            try:
                self.driver.drop(connection)
            except Exception as error:
                self.journal.note("drop_failed", error=redact(error))
        if self._forget(slot):
            self._count_held(slot, time.monotonic())
            self.counts.broken += reason is Closed.BROKEN
            if slot.opened_at:
                # One that failed while it was set up never counted as opened.
                reason = reason or self._why(slot)
                self.counts.closed[reason] += 1
            self._match()
            if slot.opened_at and self.journal.is_verbose:
                seconds = time.monotonic() - slot.opened_at
                self.journal.note("closed", connection=slot.number, seconds=seconds, reason=str(reason))

    def _is_inherited(self, slot: Slot) -> bool:
        """Whether this is a fork of the process that the pool belongs to: there they are let be."""
        if fork.is_own(self._process):
            return False
        if slot.connection is not None:
            fork.never_free(slot.connection)
        return True

    def _why(self, slot: Slot) -> Closed:
        """Why a connection is not kept."""
        if slot.broken:
            return Closed.BROKEN
        if self.closing or slot.generation != self._generation:
            return Closed.RECYCLED
        if time.monotonic() >= slot.expires_at:
            return Closed.AGE
        return Closed.SURPLUS if self._over_cap() else Closed.UNCLEAN

    def reclaim(self, slot: Slot) -> None:
        """The last reference to a slot is gone. Called by its finalizer, anywhere."""
        if slot.number not in self._slots:
            return
        if self._is_inherited(slot):
            return
        self.counts.reclaimed += 1
        holder = slot.holder
        self.discard(slot, Closed.UNCLEAN)
        self.journal.note("reclaimed", request=request_label(holder))

    # -- doubt -----------------------------------------------------------------------------

    def suspect_all(self) -> None:
        """A connection was closed by the server: all that were opened before now are suspect."""
        self._suspect_before = time.monotonic()

    def found_broken(self) -> None:
        """So was one that nobody was using."""
        self.suspect_all()
        self.journal.note("dead")

    def is_suspect(self, slot: Slot) -> bool:
        """Whether a connection died since this one was last known to be good, or it looks odd."""
        return slot.validated_at <= self._suspect_before

    def suspect(self, slot: Slot) -> None:
        """Something odd has happened with this connection: its next taker asks the server."""
        slot.validated_at = -math.inf

    def validated(self, slot: Slot) -> None:
        """The taker has asked the server, and it answered."""
        slot.validated_at = time.monotonic()

    # -- changing and looking after -----------------------------------------------------------

    def resize(self, limits: Limits) -> None:
        """Other limits from now on. What is idle beyond them is closed here."""
        if limits != self.limits:
            self.journal.note("resized", size=limits.size, max_outstanding=limits.max_outstanding)
        self.limits = limits
        while self._over_cap():
            try:
                self._dismiss(self._idle.popleft(), Closed.SURPLUS)
            except IndexError:
                break
        self._match()

    def recycle(self) -> None:
        """Replace every connection: the idle ones are closed here, the others as they come back."""
        self._generation += 1
        if self._slots:
            self.journal.note("recycled")
        for rest in list(self._resting):
            self._end_rest(rest)
        self.drain()

    def drain(self) -> None:
        """Close what is idle."""
        while self._idle:
            try:
                self._dismiss(self._idle.popleft(), Closed.RECYCLED)
            except IndexError:
                return

    def drain_here(self) -> None:
        """Close what is idle and belongs to this hub; others may be past closing theirs."""
        affinity = self.driver.affinity()
        for rest in list(self._resting):
            self._end_rest(rest)
        for slot in list(self._idle):
            if slot.affinity is affinity and self._claim_idle(slot):
                self.close(slot, Closed.RECYCLED)

    def _dismiss(self, slot: Slot, reason: Closed | None) -> None:
        if slot.affinity is self.driver.affinity():
            self.close(slot, reason)
        else:
            self.discard(slot, reason)

    def maintain(self) -> None:
        """Close what isn't wanted any more, and tell what there is to tell: each, should another one fail.

        Raises what failed.
        """
        with ExitStack() as last_first:
            last_first.callback(self.journal.write)
            last_first.callback(self._look_for_leaks)
            last_first.callback(self._tend_idle)
            last_first.callback(self._free_the_dead)

    def _free_the_dead(self) -> None:
        """Slots whose finalizer was interrupted, as by a thread's asynchronous exception."""
        now = time.monotonic()
        dead = [number for number, ref in list(self._slots.items()) if ref() is None]
        # The garbage collector clears references first, and calls finalizers then.
        self._dead = {number: self._dead.get(number, now) for number in dead}
        for number, since in self._dead.items():
            if now - since >= FINALIZED and self._slots.pop(number, None) is not None:
                self.growth.end(number)
                self.counts.reclaimed += 1
        if self._waiters:
            self._match()

    def _look_for_leaks(self) -> None:
        self.leaks.look(self._living(), self.limits.leak_threshold, time.monotonic())

    def _tend_idle(self) -> None:
        """Close what has been idle for too long, is too old, dead, or more than wanted at rest."""
        now = time.monotonic()
        for rest in list(self._resting):
            if self.closing or now - rest.since >= MAX_REST:
                self._end_rest(rest)
        for slot in list(self._idle):
            reason = self._not_wanted(slot, now - slot.returned_at)
            if (reason or self._looks_bad(slot)) and self._claim_idle(slot):
                # It may have been in use since the look, and be back.
                if reason is None and self._fit(slot):
                    self._idle.append(slot)
                else:
                    self._dismiss(slot, reason)
        if self._waiters:
            self._match()

    def _not_wanted(self, slot: Slot, unused: float) -> Closed | None:
        """Why one that has been unused for so many seconds isn't wanted any more."""
        limits = self.limits
        if self.closing:
            return Closed.RECYCLED
        if self._over_cap() or (unused >= EXCESS_STAYS and len(self._idle) > limits.size):
            return Closed.SURPLUS
        is_over_minimum = limits.idle_timeout is not None and len(self._slots) > limits.min_size
        if unused >= self.server_timeout or (is_over_minimum and unused >= (limits.idle_timeout or 0.0)):
            return Closed.IDLE
        return None

    def _looks_bad(self, slot: Slot) -> bool:
        """A look at a slot that is not in our hands: it may be in use by the time."""
        connection = slot.connection
        return self._is_stale(slot) or (connection is not None and self.driver.alive(connection) is False)

    def reserve_minimum(self) -> Slot | None:
        """A bare slot for the caller to open and check in, while there are fewer than MIN_SIZE."""
        affinity = self.driver.affinity()
        if self.closing or len(self._slots) >= self.limits.min_size or not self._may_open(affinity):
            return None
        slot = self._new_slot(affinity)
        if slot is None:
            # A matcher in another thread may have found no room because of this attempt.
            self._match()
            return None
        slot.holder = "the housekeeper"
        slot.taken_at = time.monotonic()
        return slot

    # -- telling ---------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many slots are taken, in any state."""
        return len(self._slots)

    def _living(self) -> list[Slot]:
        return [slot for ref in list(self._slots.values()) if (slot := ref()) is not None]

    def connections(self) -> list[Any]:
        """All physical connections, idle and in use."""
        return [slot.connection for slot in self._living() if slot.connection is not None]

    def holders(self) -> list[object]:
        """Of the connections that are checked out."""
        return [slot.holder for slot in self._living() if slot.holder is not None]

    def holds_recycled(self, but: list[Slot]) -> bool:
        """Whether connections from before the last ``recycle`` are left, other than these."""
        return any(slot.generation != self._generation and slot not in but for slot in self._living())

    def snapshot(self) -> PoolStats:
        """Counts of this moment, read without stopping anybody."""
        idle, opening = len(self._idle), len(self.growth)
        return PoolStats(
            alias=self.name,
            size=self.limits.size,
            max_outstanding=self.limits.max_outstanding,
            in_use=max(0, len(self._slots) - idle - opening),
            idle=idle,
            opening=opening,
            waiting=len(self._waiters),
            **self.counts.read(),
        )

    def held(self) -> list[tuple[float, str]]:
        """Seconds, and who, for each connection that is checked out, the longest first."""
        now = time.monotonic()
        slots = sorted((slot for slot in self._living() if slot.taken_at), key=lambda slot: slot.taken_at)
        return [(now - slot.taken_at, redact(slot.holder)) for slot in slots]

    def note(self, kind: str, error: object, is_news: bool = True, **fields: Any) -> None:
        """Something has gone wrong. ``is_news``: the log shall tell, too."""
        text = redact(error)
        self.troubles.append(Trouble(time.monotonic(), kind, text))
        if is_news:
            self.journal.note(kind, error=text, **fields)

    def refusal(self, waited: float, why: str, counted: bool = True) -> CheckoutTimeout:
        """The error for a caller that gets no connection, counted and told of if it is ``counted``."""
        now = time.monotonic()
        stats = self.snapshot()
        message = (
            f"No connection from pool {self.name!r}: {why}; {stats.in_use} in use, {stats.idle} idle, "
            f"{stats.opening} opening, {stats.waiting} waiting, max_outstanding {stats.max_outstanding}."
        )
        held = [slot for slot in self._living() if slot.taken_at]
        if held:
            longest = min(held, key=lambda slot: slot.taken_at)
            message += f" Held longest: {now - longest.taken_at:.1f} s by {redact(longest.holder)}."
        if self.growth.last_error is not None:
            at, error = self.growth.last_error
            message += f" Last connect error, {now - at:.1f} s ago: {redact(error)}."
        refusal = CheckoutTimeout(message, waited)
        if counted:
            self.counts.timeouts += 1
            self.note("timeout", refusal, seconds=waited, **stats.moment())
        return refusal
