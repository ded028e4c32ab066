"""Who acts in a simulation: callers that use a pool as the wrapper does, each in a fiber."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from django_db_pooling.pool import CheckoutTimeout, ServerAway
from django_db_pooling.pool.limits import Limits
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.stats import Closed
from tests.unit.fiber_driver import Away, Fault, FiberWakeup
from tests.unit.fibers import suspend

if TYPE_CHECKING:
    from tests.unit.world import World

# All places where an actor can be suspended, and so be interrupted.
POINTS = (
    "waiting",
    "served",
    "turned away",
    "connecting",
    "setting up",
    "pausing",
    "checking",
    "executing",
    "holding",
    "rolling back at checkout",
    "rolling back at the end",
    "closing at checkout",
    "closing in the queue",
    "closing at the end",
    "closing while looking after",
)
# What a caller that holds a connection can be told to do.
ORDERS = ("execute", "begin", "blur", "blindly", "close", "discard", "drop", "rest", "give back")


class Timeout(BaseException):
    """As gevent raises in a greenlet: its request goes on to its end."""


class Kill(BaseException):
    """As gevent kills a greenlet: its wrapper is abandoned, without I/O."""


class Actor:
    """What one thread or greenlet does: a request, or something that looks after the pool."""

    def __init__(
        self, world: World, name: str, affinity: tuple[object, object], deadline: float | None = None
    ) -> None:
        self.world, self.pool = world, world.pool
        self.name, self.deadline = name, deadline
        self.hub, self.identity = affinity
        # What it closes at this moment.
        self.closing: object = None
        # It opens in the place of what is of no use to it.
        self.reopens = self.has_reopened = self.is_reopening = False
        self.slot: Slot | None = None
        # Its place in the queue, during a checkout, and whether its deadline was over when it came.
        self.wakeup: FiberWakeup | None = None
        # What it got had been in use until then.
        self.got_fresh = False
        self.impatient = False
        self.phase = "while looking after"
        self.order = "give back"
        # It drops a bare slot instead of opening a connection.
        self.gives_up = False
        self.opening_since = self.pauses_until = -math.inf
        self.task: Callable[[], object] = self.request
        self.fiber = world.kind(self.run)

    def __repr__(self) -> str:
        return f"<{self.name} {self.where}>"

    @property
    def affinity(self) -> tuple[object, object]:
        """Another object each time: equal is what counts."""
        return self.hub, self.identity

    @property
    def where(self) -> str:
        point, wakeup = self.fiber.point, self.wakeup
        if point == "waiting" and wakeup is not None and not self.is_queued:
            return "turned away" if wakeup.is_turned_away else "served"
        return point or "nowhere"

    @property
    def is_queued(self) -> bool:
        return self.wakeup is not None and self.wakeup in self.world.queue

    @property
    def is_served(self) -> bool:
        return self.wakeup is not None and not (self.is_queued or self.wakeup.is_turned_away)

    @property
    def wakes_at(self) -> float:
        """When it goes on by itself: a sleeper when its time has come, unless it was woken."""
        wakeup = self.wakeup
        if self.fiber.point == "pausing":
            return self.pauses_until
        return (
            -math.inf if self.fiber.point != "waiting" or wakeup is None or wakeup.woken else wakeup.wakes_at
        )

    @property
    def is_due(self) -> bool:
        return self.wakes_at <= self.world.clock.now

    @property
    def giving_way(self) -> Slot | None:
        """A slot of another affinity that it was served, whose connection it has yet to close."""
        waiter = None if self.wakeup is None else self.wakeup.waiter
        slot = None if waiter is None else waiter.outcome
        return slot if isinstance(slot, Slot) and slot.opened_at and slot.affinity != self.affinity else None

    @property
    def holds(self) -> int:
        """How many slots are in its hands."""
        point, giving_way = self.fiber.point or "", self.giving_way
        between = point.startswith("closing") or point == "rolling back at the end"
        if giving_way is not None and giving_way.connection is self.closing:
            between = False
        return (self.slot is not None) + between + self.is_served

    def run(self) -> None:
        try:
            self.task()
        except (Timeout, Kill, Fault, CheckoutTimeout, ServerAway) as error:
            error.__traceback__ = None
        assert self.slot is None, "it has forgotten to let go"

    def request(self) -> None:
        try:
            self.connect()
            self.work()
        except Kill:
            self.abandon()
        except (Timeout, Fault, CheckoutTimeout, ServerAway):
            self.give_back()
        else:
            self.give_back()

    def fill(self) -> None:
        """As the housekeeper does for MIN_SIZE."""
        self.slot = self.pool.reserve_minimum(self.affinity)
        if self.slot is not None:
            self.opening_since = self.world.clock.now
            try:
                self.attempt(self.slot)
            except BaseException as error:
                self.pool.open_failed(self.let_go(), type(error)())
                raise
            self.give_back()

    def resize(self, limits: Limits) -> None:
        self.pool.resize(limits)
        # Unless somebody else has resized it meanwhile.
        most = limits.max_outstanding if self.pool.limits is limits else None
        assert most is None or len(self.pool) <= most or not self.pool.slots.idle(), (
            "more than the cap are idle"
        )

    def recycle(self) -> None:
        self.world.recycles += 1
        self.pool.recycle()
        assert not self.pool.slots.idle(), "some were not replaced"

    def forget(self) -> None:
        """The settings don't have its identity any more."""
        self.pool.close_idle(lambda affinity: isinstance(affinity, tuple) and affinity[1] is self.identity)

    def maintain(self) -> None:
        self.pool.maintain()

    # -- taking -----------------------------------------------------------------------------

    def connect(self) -> None:
        self.phase = "at checkout"
        try:
            while not self.check_out():
                pass
        except BaseException:
            if self.slot is not None:
                self.pool.discard(self.let_go())
            raise

    def check_out(self) -> bool:
        world = self.world
        try:
            self.slot = slot = self.pool.checkout(self.deadline, self.name, None, self.affinity)
        except CheckoutTimeout as refusal:
            world.is_refused(self, refusal)
            raise
        finally:
            wakeup, self.wakeup = self.wakeup, None
            self.got_fresh = False
            if wakeup is not None and wakeup.waiter is not None:
                # They refer to each other, and one of them to the slot.
                waiter, wakeup.waiter = wakeup.waiter, None
                self.got_fresh = waiter.is_fresh
                del waiter
        world.counts.checkouts += 1
        if wakeup is not None:
            self.opening_since = wakeup.woken_at
            world.is_in_turn(wakeup, slot)
        if slot.connection is None:
            if self.gives_up:
                world.garbage.append(self.let_go())
                return True
            return self.open(slot)
        world.is_taken(self, slot)
        if self.make_usable(slot):
            return True
        self.sees_a_death()
        if not self.reopens:
            self.lose()
            return False
        slot.connection.user = None
        self.is_reopening = not (self.pool.growth.away or self.pool.slots.is_over_cap)
        try:
            if not self.pool.reopen(self.let_go(), Closed.BROKEN):
                return False
        finally:
            self.is_reopening = False
            self.world.counts.broken += 1
        self.slot = slot
        self.has_reopened = True
        return self.open(slot)

    def open(self, slot: Slot) -> bool:
        """As long as the pool wants it to try again. False: it queues up again instead."""
        while True:
            began = self.world.clock.now
            try:
                self.attempt(slot)
                return True
            except Fault as error:
                pause = None
                if isinstance(error, Away):
                    pause = self.pool.retry_in(Away(), began, self.deadline, self.affinity)
                if pause is None:
                    self.pool.open_failed(self.let_go(), type(error)())
                    raise
            if not pause:
                self.pool.discard(self.let_go())
                return False
            self.pauses_until = self.world.clock.now + pause
            assert not self.world.hope(self.affinity), f"{self} keeps its place while others may come back"
            assert self.deadline is None or self.pauses_until < self.deadline, "it pauses beyond its deadline"
            suspend("pausing")

    def attempt(self, slot: Slot) -> None:
        slot.connection = self.pool.driver.connect()
        slot.connection.user = self.name
        suspend("setting up")
        self.world.counts.opened += 1
        slot.connection.validated_at = self.world.clock.now
        self.pool.opened(slot)

    def make_usable(self, slot: Slot) -> bool:
        if slot.maybe_in_transaction:
            slot.maybe_in_transaction = False
            if not self.roll_back(slot):
                return False
        return not self.pool.is_suspect(slot) or self.is_usable(slot)

    def is_usable(self, slot: Slot) -> bool:
        try:
            suspend("checking")
        except Fault:
            return False
        except BaseException:
            self.lose()
            raise
        if slot.connection.is_dead:
            return False
        slot.connection.looks = True
        slot.connection.validated_at = self.world.clock.now
        self.pool.validated(slot)
        return True

    # -- using ------------------------------------------------------------------------------

    def work(self) -> None:
        while self.slot is not None:
            suspend("holding")
            order, self.order = self.order, "give back"
            if order == "execute":
                self.execute()
            elif order == "begin":
                self.slot.connection.in_transaction = True
            elif order == "blur":
                self.slot.connection.in_transaction = None
            elif order == "rest" and self.slot.connection.in_transaction is False:
                self.rest()
            else:
                self.end(order)

    def rest(self) -> None:
        """Leave a changed session, which somebody else may need before its user comes back."""
        slot = self.let_go()
        slot.connection.user = None
        rest = self.pool.rest(slot)
        # As wrappers, which keep the rest only.
        del slot
        try:
            suspend("resting")
        finally:
            slot = self.pool.resume(rest)
            if slot is not None:
                self.slot = slot
                slot.connection.user = self.name

    def execute(self) -> None:
        assert self.slot is not None
        connection = self.slot.connection
        assert connection.user == self.name and connection.affinity == self.affinity
        connection.in_statement = True
        try:
            suspend("executing")
            if connection.is_dead:
                raise Fault
        except BaseException as error:
            if isinstance(error, Fault):
                self.sees_a_death()
            self.lose()
            raise
        connection.in_statement = False

    def sees_a_death(self) -> None:
        self.world.suspect_before = self.world.clock.now
        self.pool.suspect_all()

    def lose(self) -> None:
        self.world.counts.broken += 1
        self.pool.discard(self.let_go(), Closed.BROKEN)

    # -- giving back ------------------------------------------------------------------------

    def let_go(self) -> Slot:
        slot, self.slot = self.slot, None
        assert slot is not None
        return slot

    def end(self, order: str) -> None:
        self.phase = "at the end"
        if order == "give back":
            self.give_back()
        elif order == "blindly" and self.slot is not None and self.slot.connection.in_transaction is False:
            # As who looked whether it is kept before the pool changed.
            self.pool.checkin(self.let_go())
        elif order == "close":
            self.pool.close(self.let_go())
        elif order == "discard":
            slot = self.let_go()
            self.pool.discard(slot)
            for again in (self.pool.discard, self.pool.close, self.pool.checkin):
                again(slot)
        elif order == "drop":
            self.world.garbage.append(self.let_go())

    def give_back(self) -> None:
        self.phase = "at the end"
        if self.slot is None:
            return
        slot = self.let_go()
        try:
            clean = self.world.wants(slot) and (
                slot.connection.in_transaction is False or self.roll_back(slot)
            )
        except BaseException:
            self.pool.discard(slot)
            raise
        if clean:
            self.pool.checkin(slot)
        else:
            self.pool.close(slot)

    def abandon(self) -> None:
        if self.slot is None:
            return
        slot = self.let_go()
        if self.world.wants(slot) and slot.connection.in_transaction is not True:
            slot.maybe_in_transaction = slot.connection.in_transaction is None
            self.pool.checkin(slot)
        else:
            self.pool.discard(slot)

    def roll_back(self, slot: Slot) -> bool:
        try:
            suspend(f"rolling back {self.phase}")
            if slot.connection.is_dead:
                raise Fault
        except Fault:
            return False
        slot.connection.in_transaction = False
        return True
