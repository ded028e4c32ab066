"""Hold and wait: what becomes of the connections that a caller holds while it waits for another one.

Two callers of whom each holds what the other one waits for would stand still. So who is about to wait lends
out what it holds and doesn't use at this moment. What nobody has needed meanwhile it takes back afterwards,
and has it as before. Where it needs all that it holds, for transactions, and so does everybody who could give
it something, nobody is waited for: it gets an error at once.
"""

from __future__ import annotations

from sys import getrefcount
from typing import Any, NamedTuple

from django_db_pooling.backend import checkin, reuse
from django_db_pooling.backend.base import LeaseHolder
from django_db_pooling.backend.lease import Lease
from django_db_pooling.owner import Owner
from django_db_pooling.pool.pool import Pool
from django_db_pooling.pool.resting import Rest
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.waiter import Waiter

STUCK = "all who hold one wait for a connection, too, and none of them can go on"


class _Lent(NamedTuple):
    wrapper: LeaseHolder
    lease: Lease
    rest: Rest


class Lending:
    """Of one caller, while it waits in one pool."""

    def __init__(self, mine: Owner, pool: Pool) -> None:
        # None once the wait is over: the frames of errors, which refer to this, must not keep it alive.
        self._mine: Owner | None = mine
        self._pool = pool
        self._lent: list[_Lent] = []

    def before_waiting(self, waiter: Waiter) -> str | None:
        """For ``Pool.checkout``. What can be lent out without a word with the server is; the rest is closed
        or kept.
        """
        mine = self._mine
        assert mine is not None
        # First of all: of two who begin to wait, one sees the other.
        mine.waiting = (self._pool, waiter)
        is_holding = False
        for wrapper in mine.holding():
            lease = wrapper._lease
            if lease is None:
                continue
            if not is_at_rest(wrapper, lease):
                is_holding = True
            elif lease.pool.wants(lease.slot):
                self._lend(wrapper, lease)
            else:
                checkin.check_in(wrapper)
        return STUCK if is_holding and nobody_goes_on(self._pool) else None

    def _lend(self, wrapper: LeaseHolder, lease: Lease) -> None:
        if wrapper.errors_occurred:
            lease.pool.suspect(lease.slot)
        lease.slot.cursors = (*lease.slot.cursors, *lease.cursors)
        lease.slot.maybe_in_transaction = lease.in_transaction(wrapper.autocommit) is None
        # In this order: a connection without a lease would be used.
        wrapper.connection = None
        wrapper.end_lease()
        wrapper._resting = rest = lease.pool.rest(lease.slot, lent=True)
        self._lent.append(_Lent(wrapper, lease, rest))

    def end(self) -> None:
        """The wait is over, with a connection or without."""
        mine, self._mine = self._mine, None
        if mine is not None:
            mine.waiting = None
        for wrapper, lease, rest in self._lent:
            slot = lease.pool.resume(rest)
            # Else its next checkout finds that it was lent out.
            if slot is not None:
                slot.maybe_in_transaction = False
                wrapper._resting = None
                wrapper.adopt(lease)


def is_at_rest(wrapper: LeaseHolder, lease: Lease) -> bool:
    """Whether it would not be noticed if the wrapper went on with another connection. No I/O."""
    slot = lease.slot
    return not (
        lease.by_transaction
        or lease.pinned
        or lease.manual
        or wrapper.in_atomic_block
        or wrapper._depth
        or wrapper.is_shared
        or not lease.driver.has_transactions
        or slot.dirty
        or slot.locks
        or slot.broken
        # That says that sessions are changed in ways which nobody sees.
        or lease.identity.reset_mode == "always"
        or not lease.is_over(wrapper.autocommit)
        or _others_refer(wrapper, lease)
    )


def _others_refer(wrapper: LeaseHolder, lease: Lease) -> bool:
    """Whether anybody but the wrapper, and cursors that are closed, has the driver's object."""
    if not reuse.IS_POSSIBLE or lease.may_be_read:
        return True
    slot = lease.slot
    slot.cursors = tuple(ref for ref in slot.cursors if ref() is not None)
    cursors = [cursor for ref in {*lease.cursors, *slot.cursors} if (cursor := ref()) is not None]
    of_cursors = sum(lease.driver.references(cursor, wrapper.connection) for cursor in cursors)
    # As Identity.learn() has counted.
    return bool(getrefcount(wrapper.connection) > lease.identity.references + of_cursors)


def nobody_goes_on(pool: Pool) -> bool:
    """Whether all who have a connection of this pool wait, too, in pools of which the same is true."""
    pools = [pool]
    for one in pools:
        slots = one.slots.all()
        cap = one.limits.max_outstanding
        if one.slots.pause.is_on or (one.slots.host is not None and (cap is None or len(one.slots) < cap)):
            # That ends by itself, or other processes may give some.
            return False
        if one.slots.has_room or one.slots.idle_count or len(one.resting) or len(slots) < len(one.slots):
            return False
        for slot in slots:
            other = _holder_waits_in(slot)
            if other is None:
                return False
            if other not in pools:
                pools.append(other)
    return True


def _holder_waits_in(slot: Slot) -> Pool | None:
    """The pool; None where the holder isn't known to wait."""
    ref: Any = getattr(slot.holder, "owner", None)
    found = None if ref is None else ref()
    waiting = None if found is None else found.waiting
    if waiting is None:
        return None
    pool, waiter = waiting
    return pool if waiter.outcome is None and waiter in pool.queue.waiters else None
