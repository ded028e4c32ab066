"""Checkin: from a used connection to a clean slot.

Where Django would close a connection, at the end of its owner, and in forked children.
"""

from __future__ import annotations

import math
import time
from collections import deque

from django.db import Error as DjangoError

from django_db_pooling import owner
from django_db_pooling.backend.base import LeaseHolder
from django_db_pooling.backend.lease import LOST, Lease
from django_db_pooling.log import redact
from django_db_pooling.pool.holders import request_label
from django_db_pooling.pool.stats import Closed
from django_db_pooling.process.observers import observers

# Where a reset has failed, none is tried for so many seconds: what is in between may refuse them all.
NO_RESET = 60.0

# Attributes of an atomic block, which may be older than its connection: Django's connect() resets them.
BLOCK = (
    "in_atomic_block",
    "savepoint_ids",
    "atomic_blocks",
    "needs_rollback",
    "run_on_commit",
    "commit_on_exit",
)


def close(wrapper: LeaseHolder) -> None:
    """For Django's close(), which then sets ``connection`` to None or marks the block as closed."""
    lease = wrapper._lease
    if lease is None:
        if wrapper._vacant is not LOST:
            wrapper.plain._close()
    elif wrapper.in_atomic_block and lease.driver.has_transactions:
        _close(wrapper.end_lease())
        wrapper._vacant = LOST
    else:
        try:
            check_in(wrapper)
        finally:
            # At once, though close() does it: by now the connection may be another wrapper's.
            wrapper.unset_connection()


def give_back(wrapper: LeaseHolder) -> None:
    """The scope is over: check in (I/O where the connection isn't clean), whatever state this is in."""
    if wrapper.in_atomic_block and wrapper._identity is not None:
        holder = owner.current().holder
        wrapper._identity.pool.journal.note("atomic_left_open", request=request_label(holder))
    try:
        if wrapper._resting is not None:
            resume(wrapper)
        if wrapper._lease is not None:
            check_in(wrapper)
    finally:
        wrapper.clear_state()


def end_rest(wrapper: LeaseHolder) -> None:
    """Check in what was left at rest (I/O). A block that hasn't begun goes on."""
    block = {name: getattr(wrapper, name) for name in (*BLOCK, "_vacant", "autocommit")}
    try:
        if resume(wrapper):
            check_in(wrapper)
    finally:
        wrapper.connection = None
        wrapper.__dict__.update(block)


def abandon(wrapper: LeaseHolder) -> None:
    """The owner has ended: check in what is clean, drop the rest. No I/O: this runs in finalizers."""
    if wrapper.is_shared:
        return
    if wrapper._resting is not None:
        resume(wrapper)
    if wrapper._lease is None:
        wrapper.clear_state()
        return
    lease = wrapper.end_lease()
    slot, autocommit = lease.slot, wrapper.autocommit
    wrapper.connection = None
    if _may_be_reused(wrapper, lease) and (
        lease.is_clean(autocommit) or (not lease.is_damaged() and lease.in_transaction(autocommit) is None)
    ):
        slot.maybe_in_transaction = lease.in_transaction(autocommit) is None
        slot.dirty = slot.dirty or lease.identity.reset_mode == "always"
        lease.pool.checkin(slot)
    else:
        lease.pool.give_up(slot)
    wrapper.clear_state()


def inherit(wrapper: LeaseHolder) -> None:
    """In a forked child: the connection is the parent's."""
    wrapper._resting = None
    lease, wrapper._lease = wrapper._lease, None
    if lease is not None:
        if wrapper.in_atomic_block and lease.driver.has_transactions:
            wrapper.lose_block()
        else:
            wrapper.unset_connection()


def resume(wrapper: LeaseHolder) -> bool:
    """Take up what was left at rest. False: others needed it, or it can't be used any more."""
    rest, wrapper._resting = wrapper._resting, None
    assert rest is not None
    slot = rest.pool.resume(rest)
    if slot is None:
        return False
    pool, identity = slot.pool, slot.affinity[1]
    try:
        alive = pool.driver.alive(slot.connection)
    except BaseException:
        # As Health.fit() does: the error's frames have the slot.
        pool.discard(slot)
        raise
    if alive is False or not identity.fits(wrapper):
        pool.discard(slot, Closed.BROKEN if alive is False else Closed.RECYCLED)
        return False
    if alive is None:
        pool.suspect(slot)
    wrapper.adopt(Lease(slot, identity, by_transaction=True))
    return True


# -- the steps ------------------------------------------------------------------------------------


def check_in(wrapper: LeaseHolder, may_rest: bool = False, is_clean: bool = False) -> None:
    """Roll back and reset where it is necessary (I/O), then check in; close what can't be made clean.

    ``may_rest``: a changed session is left at rest, this wrapper's until others need its slot. ``is_clean``:
    whether it is known that there is nothing to roll back or to read.
    """
    lease = wrapper.end_lease()
    slot, pool = lease.slot, lease.pool
    try:
        is_good = _may_be_reused(wrapper, lease)
        must_reset = slot.dirty or lease.identity.reset_mode == "always"
        rests = is_good and may_rest and slot.dirty
        if not is_clean and wrapper.autocommit == lease.identity.autocommit:
            # As Lease.is_clean(), without a call.
            try:
                is_clean = lease.driver.is_clean(slot.connection)
            except Exception as error:
                observers.failed("looking at a connection", error)
        is_as_new = (
            is_good
            and not rests
            and (is_clean or (not lease.is_damaged() and roll_back(wrapper, lease)))
            and (not must_reset or reset_session(wrapper, lease))
        )
    except BaseException as error:
        pool.give_up(slot, None, error)
        raise
    # From here on it may be another wrapper's.
    wrapper.connection = None
    if rests:
        wrapper._resting = pool.rest(slot)
    elif is_as_new:
        pool.checkin(slot)
    else:
        _close(lease)


def _close(lease: Lease) -> None:
    """Close it (I/O); where another thread is in the middle of a statement, or rows are still to come, end
    that at the server.
    """
    slot, pool = lease.slot, lease.pool
    if not lease.driver.broken(slot.connection) and pool.endings.is_executing(slot):
        pool.give_up(slot)
    else:
        pool.close(slot)


def _may_be_reused(wrapper: LeaseHolder, lease: Lease) -> bool:
    """Whether it isn't known to be broken or stale. No I/O."""
    if lease.slot.broken or lease.identity.retired or not lease.pool.wants(lease.slot):
        return False
    if lease.cursors and (lease.is_damaged() or not _detach_cursors(lease)):
        return False
    if lease.pinned and _settings_changed(lease):
        return False
    if wrapper.errors_occurred:
        # Django would ping the server here. The next checkout does.
        lease.pool.suspect(lease.slot)
    return True


def _settings_changed(lease: Lease) -> bool:
    """Whether somebody has told the driver's object to work in another way, or has closed it."""
    driver, slot = lease.driver, lease.slot
    return bool(driver.broken(slot.connection) or driver.settings(slot.connection) != slot.settings)


def _detach_cursors(lease: Lease) -> bool:
    """So that none of them is used on somebody else's connection. False: they can't be."""
    for ref in list(lease.cursors):
        cursor = ref()
        if cursor is not None and not lease.driver.detach_cursor(cursor):
            return False
    return True


def roll_back(wrapper: LeaseHolder, lease: Lease) -> bool:
    """End a transaction that was left open (I/O): never by a commit. False if that fails."""
    autocommit = lease.identity.autocommit
    # Where autocommit is off by the settings, there is always one.
    was_left_open = not wrapper.in_atomic_block and autocommit and lease.in_transaction(wrapper.autocommit)
    try:
        lease.driver.rollback(lease.slot.connection, wrapper.seconds_left(lease))
        if wrapper.autocommit != autocommit:
            wrapper._set_autocommit(autocommit)
    except (wrapper.Database.Error, DjangoError, OSError) as error:
        lease.pool.journal.note("rollback_failed", error=redact(error))
        return False
    if was_left_open:
        lease.pool.journal.note("rolled_back", request=request_label(lease.slot.holder))
    return True


def reset_session(wrapper: LeaseHolder, lease: Lease) -> bool:
    """Make the session as it was after opening (I/O), outside of a transaction. False if it can't."""
    slot, driver, pool, identity = lease.slot, lease.driver, lease.pool, lease.identity
    wrapper.in_atomic_block = wrapper.needs_rollback = False
    # These statements are not in the user's query log, and don't pass the user's wrappers of execute().
    log_and_wrappers = wrapper.queries_log, wrapper.execute_wrappers
    wrapper.queries_log, wrapper.execute_wrappers = deque(maxlen=1), []
    # Nor do they make a trace of their own, where a tracer has put an object of its own before the driver's.
    plain = getattr(slot.connection, "__wrapped__", slot.connection)
    try:
        wrapper.connection = plain
        if (
            slot.beyond_reset
            or not slot.resettable
            or time.monotonic() < identity.no_reset_before
            or _settings_changed(lease)
            # By other settings it would be another session.
            or not identity.fits(wrapper)
            or not driver.reset(plain, wrapper.seconds_left(lease))
        ):
            return False
        wrapper._set_autocommit(identity.autocommit)
        wrapper.init_connection_state()
    except (wrapper.Database.Error, DjangoError, OSError) as error:
        is_news = identity.no_reset_before == -math.inf
        identity.no_reset_before = time.monotonic() + NO_RESET
        if is_news:
            pool.journal.note("reset_failed", error=redact(error))
        return False
    finally:
        wrapper.queries_log, wrapper.execute_wrappers = log_and_wrappers
        if wrapper.connection is plain:
            wrapper.connection = slot.connection
    identity.no_reset_before = -math.inf
    slot.dirty = False
    slot.locks = 0
    pool.counts.resets += 1
    return not driver.broken(slot.connection)
