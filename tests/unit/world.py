"""A pool, its actors and their clock: what a schedule can do to them, and what holds after each step."""

from __future__ import annotations

import contextlib
import math
from typing import Any, ClassVar
from unittest import mock

import pytest

from django_db_pooling.pool.growth import MAX_PAUSE, STALLED
from django_db_pooling.pool.health import Health
from django_db_pooling.pool.openings import Openings
from django_db_pooling.pool.queue import PROBE_WAIT, Queue
from django_db_pooling.pool.resting import MIN_REST
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.slots import FRESH
from django_db_pooling.pool.stats import Closed, Counts
from django_db_pooling.pool.waiter import CheckoutTimeout, Waiter
from django_db_pooling.process.wakeup import RECHECK_INTERVAL
from tests.unit.actors import Actor, Kill
from tests.unit.fakes import PASSED, TIMED, Clock, FakePool, FakeSlots
from tests.unit.fiber_driver import FiberDriver, FiberWakeup
from tests.unit.fibers import Fiber, never_switching

OPEN_AT_A_TIME = 2


class FiberSlots(FakeSlots):
    """Notice when they switch where they must not."""

    def checkin(self, slot: Slot) -> None:
        with never_switching():
            super().checkin(slot)

    def discard(self, slot: Slot, reason: Closed | None = None) -> None:
        with never_switching():
            super().discard(slot, reason)

    def reclaim(self, slot: Slot) -> None:
        with never_switching():
            super().reclaim(slot)


class FiberQueue(Queue):
    """Notices when it switches where it must not, and when several open that shouldn't."""

    def _serve_waiters(self) -> None:
        with never_switching():
            super()._serve_waiters()

    def _next_match(self) -> tuple[Waiter, Slot] | None:
        match = super()._next_match()
        if match is not None:
            waiter, slot = match
            opens = slot.connection is None or slot.affinity != waiter.affinity
            if opens and self._growth.away and not waiter.impatient:
                assert len(self._growth) == 1, "several look for the server at once"
            if opens and slot.connection is not None:
                self._slots.driver.world.gives_way(slot, waiter)  # type: ignore[attr-defined]
        return match

    def turn_away(self) -> None:
        before = list(self.waiters)
        super().turn_away()
        for waiter in before:
            if waiter not in self.waiters:
                self._slots.driver.world.is_turned_away(waiter)  # type: ignore[attr-defined]


class FiberHealth(Health):
    def looks_bad(self, slot: Slot) -> bool:
        # From this look alone nothing follows: somebody else may have taken the slot.
        driver: Any = self._driver
        before = set(driver.found_broken), driver.world.suspect_before
        bad = super().looks_bad(slot)
        driver.found_broken, driver.world.suspect_before = before
        return bad


class FiberOpenings(Openings):
    def failed(self, slot: Slot, error: Exception) -> None:
        growth, world = self._growth, self._slots.driver.world  # type: ignore[attr-defined]
        before = set(growth._opening)
        super().failed(slot, error)
        if growth.outage and not any(map(world.hope, world.affinities)):
            assert growth._opening.keys() <= before, "in an outage, a failure has made another one try"


class FiberPool(FakePool):
    driver: FiberDriver
    parts: ClassVar[dict[str, type[Any]]] = {
        "Slots": FiberSlots,
        "Queue": FiberQueue,
        "Health": FiberHealth,
        "Openings": FiberOpenings,
    }


class World:
    """The invariants are checked after everything that happens."""

    def __init__(self, kind: type[Fiber], hubs: int = 1, identities: int = 1, **limits: Any) -> None:
        self.kind = kind
        self.clock = Clock()
        self._patches = contextlib.ExitStack()
        for module in TIMED:
            self._patches.enter_context(mock.patch.object(module, "time", self.clock))
        self.affinities = [
            (f"hub {hub}", f"identity {identity}") for hub in range(hubs) for identity in range(identities)
        ]
        self.pool = FiberPool(FiberDriver(self), **limits)
        self.pool.queue.here = self.pool.driver.place
        self.driver = self.pool.driver
        # Those that have begun and not ended, in the order in which they came.
        self.actors: list[Actor] = []
        self.running: Actor | None = None
        # Slots that were dropped in reference cycles: reclaimed when they are collected.
        self.garbage: list[Slot] = []
        # What the pool should count.
        self.counts = Counts()
        self.suspect_before = -math.inf
        self.recycles = 0
        # No server is there for those who connect.
        self.is_away = False
        # There may be more than max_outstanding only for as long as they were there before it shrank.
        self.allowed = 0.0
        # All that has happened; and whether the last of it was found to be right.
        self.journal: list[str] = []
        self.is_sound = True
        self._numbers = 0

    def close(self) -> None:
        """Also after a failure: no fiber is left in the middle of something."""
        for actor in self.actors:
            for _ in range(10):
                if not actor.fiber.is_over:
                    with contextlib.suppress(BaseException):
                        actor.fiber.go_on(Kill())
        self._patches.close()

    # -- what can happen ------------------------------------------------------------------------

    def start(self, what: str, task: str | None = None, affinity: int = 0, **details: Any) -> Actor:
        """Somebody comes and acts until it is first suspended. ``task``: a method of Actor."""
        self._numbers += 1
        details.setdefault("deadline", None)
        actor = Actor(self, f"{what} {self._numbers}", self.affinities[affinity], details.pop("deadline"))
        actor.gives_up = details.pop("gives_up", False)
        actor.reopens = details.pop("reopens", False)
        if task is not None:
            actor.task = lambda: getattr(actor, task)(**details)
        self.actors.append(actor)
        self.step(actor)
        return actor

    def step(self, actor: Actor, error: BaseException | None = None) -> None:
        """Let it go on, or raise an exception in it where it is."""
        self.note(f"{actor} {'goes on' if error is None else repr(error)} {actor.order}")
        self.running = actor
        try:
            actor.fiber.go_on(error)
        finally:
            self.running = None
        if actor.fiber.is_over:
            self.actors.remove(actor)
        self.check()

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.note(f"it is {self.clock.now:.3f}")
        self.check()

    def lose_server(self, connections_die: bool) -> None:
        """It takes nobody in any more; with a restart, for example, what it has had is gone, too."""
        self.is_away = True
        self.note(f"the server goes, and {'all' if connections_die else 'no'} connections")
        for connection in self.pool.connections() if connections_die else []:
            connection.is_dead, connection.looks = True, False
        self.check()

    def collect_garbage(self) -> None:
        self.note(f"{len(self.garbage)} are collected")
        self.counts.reclaimed += len(self.garbage)
        self.garbage.clear()
        self.check()

    def note(self, event: str) -> None:
        self.is_sound = False
        self.journal.append(event)

    def run_until_all_sleep(self) -> None:
        while due := [actor for actor in self.actors if actor.is_due]:
            self.step(due[0])

    def run_to_the_end(self) -> None:
        """Everybody goes on undisturbed until nobody is left."""
        for _ in range(100):
            self.run_until_all_sleep()
            self.collect_garbage()
            if not self.actors:
                return
            self.pass_time(max(0.0, min(actor.wakes_at for actor in self.actors) - self.clock.now))
        raise AssertionError(f"{self.actors} never end; {self.pool.snapshot()}")

    # -- what is seen on the way ------------------------------------------------------------------

    @property
    def queue(self) -> list[Any]:
        """The wakeups of those who wait, first come first."""
        return [waiter.sleepers for waiter in self.pool.queue.waiters]

    def ahead_of(self, wakeup: FiberWakeup) -> list[Actor]:
        """Who came earlier and still waits."""
        return [other.actor for other in self.queue if other.number < wakeup.number]

    def is_in_turn(self, wakeup: FiberWakeup, slot: Slot) -> None:
        """Whoever was served before others who had come earlier has what these could not use."""
        overtaken = [a for a in wakeup.overtaken if slot.connection is None or a.affinity == slot.affinity]
        assert not overtaken, f"{wakeup.actor} was served before {overtaken}, who came earlier"

    def is_taken(self, actor: Actor, slot: Slot) -> None:
        """A connection was handed out: it is clean, of use, and nobody else's."""
        connection = slot.connection
        assert connection.user is None, f"{connection} of {connection.user} was handed to {actor.name}"
        assert connection.hub is actor.hub is slot.hub, "handed out in another hub"
        assert connection.affinity == actor.affinity == slot.affinity, "handed out to another affinity"
        is_seen = not self.is_fresh(actor, slot)
        assert connection.looks is not False or not is_seen, "handed out dead"
        assert self.clock.now < slot.expires_at, "handed out old"
        assert connection.recycles == self.recycles, "handed out though it was to be replaced"
        is_suspect = connection.looks is None or connection.validated_at <= self.suspect_before
        if is_seen or connection.looks is True:
            assert self.pool.is_suspect(slot) is is_suspect, "asked for no reason, or not asked"
        self.is_at_rest(slot)
        connection.user = actor.name

    def is_fresh(self, actor: Actor, slot: Slot) -> bool:
        """Whether it has come back while the actor waited, a moment ago."""
        return actor.got_fresh and self.clock.now - slot.returned_at < FRESH

    def gives_way(self, slot: Slot, waiter: Any) -> None:
        """Its connection is closed for a waiter of another affinity."""
        others = [other for other in self.pool.slots.idle() if other.affinity != waiter.affinity]
        older = [other for other in others if other.returned_at < slot.returned_at]
        assert not older, f"{slot.connection} gives way, and {older} were unused for longer"
        most = self.pool.limits.max_outstanding
        assert most is not None and len(self.pool) >= most, "nothing had to give way"

    def is_at_rest(self, slot: Slot) -> None:
        connection = slot.connection
        assert not connection.in_statement, f"{connection} would answer an earlier statement"
        assert connection.in_transaction is False or slot.maybe_in_transaction, (
            f"{connection} is left in a transaction"
        )

    def wants(self, slot: Slot) -> bool:
        """What the pool says of one that comes back."""
        most = self.pool.limits.max_outstanding
        is_wanted = (
            slot.generation == self.pool.slots.generation
            and self.clock.now < slot.expires_at
            and (most is None or len(self.pool) <= most)
        )
        assert self.pool.wants(slot) is is_wanted
        return is_wanted

    def is_refused(self, actor: Actor, refusal: CheckoutTimeout) -> None:
        self.counts.timeouts += 1
        most = self.pool.limits.max_waiting
        if actor.deadline is None or self.clock.now < actor.deadline:
            assert most is not None and len(self.queue) + 1 - self.pool.slots.room > most, (
                "refused before its time"
            )
            assert refusal.waited == 0
        assert not self.could_have_an_idle_one(actor), f"{actor} was refused what is idle"
        if actor.wakeup is None or not self.ahead_of(actor.wakeup):
            # That others have stalled meanwhile is seen by a waiter, not by one whose time is over.
            assert not self.could_have_a_place(actor, False), f"{actor} was refused what is free"

    def is_turned_away(self, waiter: Any) -> None:
        wakeup = waiter.sleepers
        wakeup.is_turned_away = True
        assert self.pool.growth.outage, f"{wakeup.actor} was turned away though the server is there"
        assert not self.hope(wakeup.actor.affinity), (
            f"{wakeup.actor} was turned away though somebody has a good connection"
        )
        assert not self.could_have_an_idle_one(wakeup.actor), (
            f"{wakeup.actor} was turned away from what is idle"
        )

    def hope(self, affinity: object) -> bool:
        """Whether somebody there has a connection that may come back and be of use."""
        slots = [slot for slot in self.pool.slots.all() if slot.affinity == affinity]
        return any(slot.connection is not None and not self.pool.is_suspect(slot) for slot in slots)

    def somebody_has_yet_to_look(self) -> bool:
        """Perhaps whoever is first in the queue."""
        return any(actor.is_queued and (actor.is_due or actor.where != "waiting") for actor in self.actors)

    def somebody_finds_out(self) -> bool:
        """That connections can't be hoped for any more: the others are told when that has an end."""
        points = ("checking", "rolling back at checkout", "closing")
        return any(actor.where.startswith(points) for actor in self.actors)

    def could_have_an_idle_one(self, actor: Actor) -> bool:
        return any(slot.affinity == actor.affinity for slot in self.pool.slots.idle())

    def could_have_a_rested_one(self, actor: Actor) -> bool:
        return any(affinity == actor.affinity for affinity in self.rested())

    def rested(self) -> list[object]:
        """Affinities of those that their users have left for so long that a waiter has looked since."""
        long_ago = self.clock.now - MIN_REST - RECHECK_INTERVAL
        if self.somebody_has_yet_to_look():
            return []
        return [rest.affinity for rest in self.pool.resting.all() if rest.since < long_ago]

    def could_have_a_place(self, actor: Actor, sees_stalls: bool = True) -> bool:
        """If nobody is before it."""
        if not actor.impatient and not self.may_open(actor.affinity, sees_stalls):
            return False
        most = self.pool.limits.max_outstanding
        # A connection of another affinity is of no use, but its place is.
        return most is None or len(self.pool) < most or bool(self.pool.slots.idle_count or self.rested())

    def may_open(self, affinity: object, sees_stalls: bool) -> bool:
        growth = self.pool.growth
        since = [since for since, _ in growth._opening.values()]
        if growth.away:
            if since or not self.hope(affinity):
                return not (since or self.somebody_finds_out())
            # That its time has come is seen by a waiter, too.
            failed_at = 0.0 if growth.last_error is None else growth.last_error[0]
            it_is_time = self.clock.now - failed_at > MAX_PAUSE + RECHECK_INTERVAL
            return sees_stalls and it_is_time and not self.somebody_has_yet_to_look()
        if len(since) < OPEN_AT_A_TIME or not sees_stalls:
            return len(since) < OPEN_AT_A_TIME
        if self.somebody_has_yet_to_look():
            return False
        return all(self.clock.now - begun > STALLED + RECHECK_INTERVAL for begun in since)

    # -- what always holds ------------------------------------------------------------------------

    def check(self) -> None:
        self.nobody_waits_for_what_is_free()
        self.nobody_waits_in_an_outage()
        self.there_are_no_more_than_allowed()
        self.every_slot_is_in_one_place()
        self.two_open_at_a_time()
        self.the_counts_are_exact()
        self.is_sound = True

    def nobody_waits_for_what_is_free(self) -> None:
        # Who is still closing what it got takes its next when it has done with that.
        waiting = [wakeup.actor for wakeup in self.queue if wakeup.actor.where == "waiting"]
        for actor in waiting:
            assert not self.could_have_an_idle_one(actor), f"{actor} waits for what is idle"
            assert not self.could_have_a_rested_one(actor), f"{actor} waits for what nobody comes back for"
        if waiting and waiting[0].wakeup is self.queue[0]:
            assert not self.could_have_a_place(waiting[0]), f"{waiting[0]} waits for what is free"

    def nobody_waits_in_an_outage(self) -> None:
        # Long after a failure it is waited for what the next attempt finds.
        seen = self.pool.growth.fails_fast(self.clock.now, self.pool.limits.connect_retry)
        if seen and not self.somebody_finds_out():
            # Who has come since hears what the attempt finds that is under way.
            hearing = self.clock.now - PROBE_WAIT - RECHECK_INTERVAL
            waiting = [
                waiter.sleepers.actor
                for waiter in self.pool.queue.waiters
                if waiter.sleepers.actor.where == "waiting"
                and not (self.pool.growth.attempts and waiter.came > hearing)
            ]
            waiting = [actor for actor in waiting if not self.hope(actor.affinity)]
            assert not waiting, f"{waiting} wait, and nobody has a connection"

    def there_are_no_more_than_allowed(self) -> None:
        most = self.pool.limits.max_outstanding
        cap = math.inf if most is None else most
        sockets, slots, allowed = self.driver.sockets, len(self.pool), max(cap, self.allowed)
        assert sockets <= slots <= allowed, f"{sockets} sockets, {slots} slots, {allowed} allowed"
        self.allowed = max(cap, slots)

    def every_slot_is_in_one_place(self) -> None:
        idle = self.pool.slots.idle()
        resting = [rest.slot for rest in self.pool.resting.all() if rest.slot is not None]
        in_hands = sum(actor.holds for actor in self.actors) + len(self.garbage)
        in_places = len(idle) + len(resting) + in_hands
        assert len(self.pool) == in_places, (len(self.pool), idle, resting, self.actors, self.garbage)
        connections = [slot.connection.number for slot in idle + resting]
        connections += [slot.connection.number for slot in self.garbage if slot.connection]
        connections += [a.slot.connection.number for a in self.actors if a.slot and a.slot.connection]
        assert len(set(connections)) == len(connections), "a connection is in two places"
        for slot in idle + resting:
            assert slot.connection.user is None, f"{slot.connection} is idle and in use"
            assert slot.connection.affinity == slot.affinity
            self.is_at_rest(slot)

    def two_open_at_a_time(self) -> None:
        fresh = [
            actor
            for actor in self.actors
            if actor.where in ("connecting", "setting up")
            and not actor.impatient
            and not actor.has_reopened
            and self.clock.now - actor.opening_since <= STALLED
        ]
        assert len(fresh) <= OPEN_AT_A_TIME, f"{fresh} open all at once"

    def the_counts_are_exact(self) -> None:
        stats, counts = self.pool.snapshot(), self.counts
        bare = [slot for slot in self.pool.slots.all() if not slot.opened_at]
        giving_way = sum(actor.giving_way is not None or actor.is_reopening for actor in self.actors)
        assert stats.idle == self.pool.slots.idle_count
        assert stats.opening == len(bare) + giving_way
        assert stats.in_use == len(self.pool) - stats.idle - stats.opening
        assert stats.waiting == sum(actor.is_queued for actor in self.actors)
        assert stats.checkouts == counts.checkouts
        assert stats.opened == counts.opened
        assert stats.opened - stats.closed == stats.idle + stats.in_use + giving_way
        assert stats.timeouts == counts.timeouts
        assert stats.reclaimed == counts.reclaimed
        assert stats.broken == counts.broken + len(self.driver.found_broken)

    def nothing_is_lost(self) -> None:
        """When all have ended: exactly max_outstanding can be had, in any hub."""
        assert not self.actors
        self.is_away = False
        assert len(self.pool) == self.pool.snapshot().idle == len(self.driver.open)
        most = self.pool.limits.max_outstanding
        assert most is not None
        held = [self.pool.take_now() for _ in range(most)]
        with pytest.raises(CheckoutTimeout):
            self.pool.checkout(PASSED)
        assert len(held) == len(self.pool) == len(self.driver.open) == most
