"""Checkout: from a slot to a usable connection, where Django would open one."""

from __future__ import annotations

import sys
import time
import weakref
from functools import partial
from typing import Any

from django.db import OperationalError
from django.db.backends.base.base import NO_DB_ALIAS

from django_db_pooling import conf, drivers, owner
from django_db_pooling.backend import checkin, opening, waits
from django_db_pooling.backend.base import LeaseHolder
from django_db_pooling.backend.lease import AWAITED, FREE, LOST, Lease
from django_db_pooling.backend.lending import Lending
from django_db_pooling.database_pool import Affinity, DatabasePool, Identity
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.log import redact
from django_db_pooling.pool.holders import Holding
from django_db_pooling.pool.stats import Closed
from django_db_pooling.pool.waiter import CheckoutTimeout, ServerAway
from django_db_pooling.process import upkeep
from django_db_pooling.process.deadline import Deadline
from django_db_pooling.registry import registry
from django_db_pooling.signals import connection_checked_out

# A connection that has been idle for longer (seconds) gets a ping before it is used.
LONG_IDLE = 60.0
# After a wait of so many seconds the settings are looked at again.
SHORT_WAIT = 0.05


def find_identity(wrapper: LeaseHolder) -> Identity | None:
    """That of the settings of this moment. None: by these the wrapper isn't pooled."""
    identity = wrapper._identity
    if identity is None or not identity.fits(wrapper):
        identity = wrapper._identity = _look_up(wrapper)
    return identity


def _look_up(wrapper: LeaseHolder) -> Identity | None:
    if wrapper.alias == NO_DB_ALIAS or conf.is_off(wrapper.settings_dict):
        return None
    if wrapper.vendor == "sqlite" and wrapper.is_in_memory_db():
        return None
    driver = drivers.find(wrapper.Database)
    if driver is None:
        return None
    wrapper.check_settings()
    return registry.identity_of(wrapper, driver)


def connect(wrapper: LeaseHolder) -> None:
    """Check a connection out. Raises PoolTimeout, or what Django raises when connecting fails."""
    if wrapper._vacant is LOST:
        wrapper._vacant = FREE
    if wrapper._lease is not None:
        # Other code has set `connection` to None, without close().
        wrapper.discard()
    # As find_identity(), without a call.
    identity = wrapper._identity
    if identity is None or not identity.fits(wrapper):
        identity = wrapper._identity = _look_up(wrapper)
        if identity is None:
            wrapper.plain.connect()
            return
    pool, mine = identity.pool, owner.current()
    holder: Any = mine.request or mine.holder
    holder.ident = wrapper._thread_ident
    if pool.limits.leak_threshold is not None:
        holder = Holding(holder, sys._getframe())
    # First of all: from here on it is given back at the end.
    mine.wrappers[id(wrapper)] = weakref.ref(wrapper)
    lease = affinity = None
    if wrapper._resting is None and not identity.backend_remembers:
        affinity = identity.affinity()
        slot = pool.take_idle(affinity, holder)
        if slot is not None:
            is_awaited = wrapper._vacant is AWAITED
            lease = Lease(slot, identity, is_awaited or mine.scope(identity.scope) == conf.TRANSACTION)
            # As _must_ask(), without a call. What isn't usable yet isn't the wrapper's yet: whatever
            # interrupts this must not leave it there.
            if not (
                slot.dirty
                or slot.maybe_in_transaction
                or wrapper.settings_dict["CONN_HEALTH_CHECKS"]
                or slot.validated_at <= pool.health.suspect_before
                or slot.taken_at - slot.returned_at > LONG_IDLE
                or connection_checked_out.receivers
            ):
                wrapper.adopt(lease)
                return
    _connect_with_io(wrapper, identity, mine, holder, lease, affinity)


def _must_ask(wrapper: LeaseHolder, lease: Lease) -> bool:
    """Whether only the server can tell that this one is usable."""
    slot = lease.slot
    return bool(
        wrapper.health_check_enabled
        or slot.maybe_in_transaction
        or slot.taken_at - slot.returned_at > LONG_IDLE
        or slot.validated_at <= lease.pool.health.suspect_before
    )


def _connect_with_io(
    wrapper: LeaseHolder,
    identity: Identity,
    mine: owner.Owner,
    holder: object,
    lease: Lease | None,
    affinity: Affinity | None,
) -> None:
    """Where it takes a wait, or a word with the server. ``lease``: of one that isn't usable yet.

    ``affinity``: the identity's, if it was asked already.
    """
    outer, rest, pool = wrapper._deadline, wrapper._resting, identity.pool
    deadline = failure = None
    try:
        if outer is None:
            deadline = wrapper._deadline = Deadline(_seconds_to_wait(pool, mine.max_wait))
        if rest is not None and _resume_session(wrapper, mine):
            return
        if not (
            _check_out(wrapper, identity, mine, holder, affinity)
            if lease is None
            else _make_usable(wrapper, lease)
        ):
            _check_out_another(wrapper, mine, holder)
        if connection_checked_out.receivers:
            _send_checked_out(wrapper)
        if rest is not None and rest.lent and wrapper._lease is not None:
            # Others have needed its session: this is another one.
            wrapper._lease.executed = False
    except BaseException as error:
        wrapper.discard()
        failure = PoolTimeout if isinstance(error, CheckoutTimeout) else type(error)
        if isinstance(error, Exception):
            # The housekeeper writes the log, and may not run while the pool has no connection.
            upkeep.ensure_running()
        if isinstance(error, CheckoutTimeout):
            raise PoolTimeout(str(error), error.waited, wrapper.alias) from None
        if isinstance(error, ServerAway):
            failure = type(error.error)
            raise opening.copy_of_error(error.error, str(error)) from None
        raise
    finally:
        wrapper._deadline = outer
        # The traceback of a driver's error refers to this frame, and must not keep the owner alive.
        del mine
        if deadline is not None:
            slow = pool.limits.slow_checkout
            is_slow = slow is not None and time.monotonic() - deadline.began >= slow
            if deadline.watches:
                waits.end(deadline, failure)
            if is_slow and failure is not PoolTimeout:
                waits.tell(pool, deadline, holder, wrapper.slot)


def _seconds_to_wait(pool: DatabasePool, max_wait: float | None) -> float | None:
    handled = sys.exc_info()[1]
    if handled is not None and isinstance(handled, PoolTimeout) and handled.alias == pool.name:
        # Packages that retry after an OperationalError, or pages for errors that need the database.
        return 0.0
    timeout: float | None = pool.limits.timeout
    if max_wait is None or timeout is None:
        return timeout if max_wait is None else max_wait
    return min(timeout, max_wait)


def _check_out_another(wrapper: LeaseHolder, mine: owner.Owner, holder: object) -> None:
    """Try until the deadline."""
    while True:
        identity = find_identity(wrapper)
        deadline = wrapper._deadline
        assert identity is not None and deadline is not None
        if deadline.is_over:
            seconds = time.monotonic() - deadline.began
            why = f"all connections tried in {seconds:.1f} s were unusable"
            raise identity.pool.queue.refusal(seconds, why, mine.max_wait is None, holder)
        if _check_out(wrapper, identity, mine, holder):
            return


def _check_out(
    wrapper: LeaseHolder,
    identity: Identity,
    mine: owner.Owner,
    holder: object,
    affinity: Affinity | None = None,
) -> bool:
    """Try once. False: what came couldn't be used, and its slot is given up."""
    pool, deadline = identity.pool, wrapper._deadline
    assert deadline is not None
    if identity.backend_remembers:
        # The backend's close() forgets what it knew of the last session. There is nothing to close.
        wrapper.connection = None
        wrapper.plain.close()
    # Only who has used another one may hold anything.
    lending = Lending(mine, pool) if len(mine.wrappers) > 1 else None
    before_waiting = None if lending is None else lending.before_waiting
    if waits.watchers:
        before_waiting = partial(waits.before_waiting, wrapper, before_waiting)
    came = time.monotonic()
    try:
        slot = pool.checkout(
            deadline.until,
            holder,
            deadline.began,
            affinity or identity.affinity(),
            mine.max_wait is None,
            before_waiting,
        )
    finally:
        deadline.queued += time.monotonic() - came
        if lending is not None:
            lending.end()
    if identity.retired or (slot.taken_at - deadline.began > SHORT_WAIT and not identity.fits(wrapper)):
        # The settings have changed while it waited.
        pool.checkin(slot)
        return False
    is_awaited = wrapper._vacant is AWAITED
    lease = Lease(slot, identity, is_awaited or mine.scope(identity.scope) == conf.TRANSACTION)
    if slot.connection is not None:
        return _make_usable(wrapper, lease)
    wrapper._lease = lease
    return _open(wrapper, lease)


def _open(wrapper: LeaseHolder, lease: Lease) -> bool:
    """False: its slot is given up."""
    deadline = wrapper._deadline
    assert deadline is not None
    if waits.watchers:
        waits.begin(wrapper)
    began = time.monotonic()
    try:
        is_open = opening.open_patiently(wrapper, lease)
    finally:
        deadline.connecting += time.monotonic() - began
    lease.forget_statements()
    return is_open


def _make_usable(wrapper: LeaseHolder, lease: Lease) -> bool:
    """Reset, roll back and ping where it is necessary (I/O). False: it can't be used, and is gone."""
    wrapper.adopt(lease)
    slot = lease.slot
    if slot.dirty:
        if not checkin.reset_session(wrapper, lease):
            return wrapper._lease is not None and _open_in_its_place(wrapper, lease)
        lease.forget_statements()
    if not _must_ask(wrapper, lease):
        return True
    is_usable = _ask(wrapper, lease) or discard_broken(wrapper)
    lease.forget_statements()
    return is_usable


def _open_in_its_place(wrapper: LeaseHolder, lease: Lease) -> bool:
    """Its session can't be reset. False: its slot is given up, too."""
    slot = wrapper.end_lease().slot
    wrapper.connection = None
    if not lease.pool.reopen(slot):
        return False
    wrapper._lease = renewed = Lease(slot, lease.identity, lease.by_transaction)
    return _open(wrapper, renewed)


def _ask(wrapper: LeaseHolder, lease: Lease) -> bool:
    """Roll back and ping (I/O). Whether it is usable."""
    slot = lease.slot
    if slot.maybe_in_transaction:
        slot.maybe_in_transaction = False
        if not checkin.roll_back(wrapper, lease):
            return False
    return not _must_ask(wrapper, lease) or wrapper.is_usable()


def discard_broken(wrapper: LeaseHolder) -> bool:
    """An idle connection was broken. Returns False."""
    if wrapper._lease is not None:
        lease = wrapper.end_lease()
        lease.pool.found_broken()
        lease.pool.discard(lease.slot, Closed.BROKEN)
    wrapper.connection = None
    return False


def _resume_session(wrapper: LeaseHolder, mine: owner.Owner) -> bool:
    """Take up the session that was left at rest. A unit of work doesn't: it begins with a clean one."""
    if not mine.may_rest:
        checkin.end_rest(wrapper)
        return False
    if checkin.resume(wrapper):
        lease = wrapper._lease
        assert lease is not None
        if not _must_ask(wrapper, lease) or _ask(wrapper, lease) or discard_broken(wrapper):
            # A statement may ask for what the session's last one has left: that was this wrapper's.
            lease.executed = True
            return True
    if wrapper._identity is not None:
        wrapper._identity.pool.journal.note("session_ended", holder=redact(mine.holder))
    return False


def _send_checked_out(wrapper: LeaseHolder) -> None:
    lease = wrapper._lease
    assert lease is not None
    slot = lease.slot
    before = slot.dirty, slot.beyond_reset, slot.locks
    connection_checked_out.send(sender=wrapper.backend_class, connection=wrapper)
    if wrapper._lease is not lease:
        raise OperationalError(f"{wrapper.alias}: closed or lost by a receiver of connection_checked_out")
    # The receivers overwrite at the next checkout what they have set now.
    slot.dirty, slot.beyond_reset, slot.locks = before
    lease.forget_statements()
