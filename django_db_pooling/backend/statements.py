"""What follows from what a statement does to its session, which ``drivers/rules.py`` tells by its text.

All of this only watches: where it fails itself, that is logged once, the statement goes on, and its session
counts as changed.
"""

from __future__ import annotations

import re
import time
from typing import Any

from django.db.transaction import TransactionManagementError

from django_db_pooling.backend.base import LeaseHolder
from django_db_pooling.backend.lease import Lease
from django_db_pooling.drivers.base import Driver
from django_db_pooling.drivers.rules import NOTHING, UNKNOWN, Traits
from django_db_pooling.process import fork
from django_db_pooling.process.observers import observers

# What may change its session, or may not; and what Django does in loaddata, which MySQL's proxies know.
_PERHAPS = re.compile(r"\s*(?:CALL|DO|SET\s+foreign_key_checks)\b", re.IGNORECASE)

_REMEDY = "Set what is to hold for all at the server or at the proxy."
_REMEDIES = {
    "postgresql": "Use SET LOCAL and pg_advisory_xact_lock() in atomic(), and ALTER ROLE ... SET for what is "
    "to hold for all."
}


def traits(lease: Lease, sql: Any) -> Traits:
    """``sql``: whatever cursors execute, bytes and psycopg's objects included."""
    try:
        driver: Driver = lease.driver
        return driver.rules.traits(sql if isinstance(sql, str) else driver.text(sql, lease.slot.connection))
    except Exception as error:
        observers.failed("reading a statement", error)
        return UNKNOWN


def _asked(lease: Lease, sql: Any) -> str:
    """What in a statement depends on its session, for an error."""
    try:
        text = sql if isinstance(sql, str) else lease.driver.text(sql, lease.slot.connection)
        return lease.driver.rules.asked(text) or "This statement"
    except Exception as error:
        observers.failed("reading a statement", error)
        return "This statement"


def before(wrapper: LeaseHolder, sql: Any) -> None:
    """Called by cursors before each statement."""
    if not fork.noticed[0]:
        fork.notice()
    lease = wrapper._lease
    if lease is None:
        return
    try:
        lease.busy_since = time.monotonic()
        if not (wrapper.in_atomic_block or lease.driver.remembers_transaction):
            # Once the connection is broken, this driver doesn't know it.
            lease.was_in_transaction = lease.driver.in_transaction(lease.slot.connection) is not False
    except Exception as error:
        lease.was_in_transaction = True
        observers.failed("watching a statement", error)
    if lease.identity.is_shared and lease.slot.opened_at:
        _refuse_in_shared_session(wrapper, lease, sql)
    if (
        not (lease.executed or wrapper.in_atomic_block or lease.pinned)
        and len(lease.cursors) <= 1
        and traits(lease, sql).asks
    ):
        raise TransactionManagementError(
            f"{_asked(lease, sql)} depends on the previous statement's session, and in transaction scope, or "
            "when others have needed the connection, each statement may run in another session. Wrap both in "
            "atomic(), or use one cursor."
        )


def _refuse_in_shared_session(wrapper: LeaseHolder, lease: Lease, sql: Any) -> None:
    """What would work on somebody else's session, behind a proxy that shares these by transaction."""
    found = traits(lease, sql)
    is_sure = found.changes and found is not UNKNOWN
    if is_sure and not isinstance(sql, str):
        sql = lease.driver.text(sql, lease.slot.connection)
    if is_sure and not _PERHAPS.match(sql):
        raise TransactionManagementError(
            'This statement would change its session, which others get after this transaction: POOL["PROXY"] '
            f'is "transaction". {_REMEDIES.get(wrapper.vendor, _REMEDY)}'
        )
    is_in_transaction = wrapper.in_atomic_block or lease.has_begun_by_text or not wrapper.autocommit
    if found.asks and not is_in_transaction:
        raise TransactionManagementError(
            f"{_asked(lease, sql)} depends on the previous statement's session, which may be another one "
            'already: POOL["PROXY"] is "transaction". Wrap both in atomic().'
        )


def after(wrapper: LeaseHolder, sql: Any) -> None:
    """Called by cursors after each statement; also when it has failed, since it may have been executed in
    part.
    """
    lease = wrapper._lease
    if lease is None:
        return
    lease.executed = True
    slot, driver = lease.slot, lease.driver
    try:
        lease.pool.counts.busy_seconds += time.monotonic() - lease.busy_since
        if not wrapper.autocommit:
            # Fetching its rows may fail, too.
            lease.was_in_transaction = True
        if not slot.opened_at:
            return
        try:
            found = driver.rules.known[sql]
        except Exception:
            # Not known yet, or no text.
            found = traits(lease, sql)
        # The server reports more than the text tells, but no locks.
        changes = driver.reports_session_changes and driver.session_changed(slot.connection)
        if found is NOTHING and not changes:
            return
    except Exception as error:
        observers.failed("watching a statement", error)
        found, changes = UNKNOWN, True
    if found.begins:
        lease.has_begun_by_text = True
    if found.types:
        lease.changes_types = True
        if wrapper.autocommit:
            wrapper.tell_of_types(lease)
    if found.locks:
        slot.locks = max(0, slot.locks + found.locks)
    if lease.identity.reset_mode != "never" and not slot.beyond_reset:
        slot.beyond_reset = found.lasts
        slot.dirty = slot.dirty or found.changes or changes


def pin_session(wrapper: LeaseHolder) -> None:
    """``pooling.pin()``: keep the connection, and reset its session before others get it."""
    wrapper.ensure_connection()
    if wrapper._lease is not None:
        wrapper._lease.slot.dirty = not wrapper._lease.identity.is_shared
        wrapper.pin()
