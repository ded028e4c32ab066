"""Transaction scope: a connection is held only while a transaction, a cursor or a pin needs it.

In it ``atomic()`` begins with its first statement. In request scope nothing is deferred or checked in here.
In both, ``set_autocommit()`` runs the commit hooks itself and remembers who has turned autocommit off.
"""

from __future__ import annotations

import _thread
import sys
import time
import weakref
from asyncio import _get_running_loop
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from django_db_pooling import conf, owner
from django_db_pooling.backend import checkin, checkout
from django_db_pooling.backend.base import LeaseHolder
from django_db_pooling.backend.lease import AWAITED, FREE, Lease, OpenCursor
from django_db_pooling.process import fork
from django_db_pooling.process.deadline import Deadline

# The modules between connect() and who has called Django's ensure_connection(), which its tests wrap.
_WAY_TO_CONNECT = {
    __name__,
    "django.db.backends.base.base",
    "django.test.testcases",
    "django.utils.asyncio",
}


def connect(wrapper: LeaseHolder) -> None:
    """Begins a block that was entered without a connection.

    Unless it is one of our own methods that needs a connection, or Django's code, it is the user's that has
    called ``ensure_connection()``, to use ``connection.connection`` next: that pins.
    """
    if not wrapper._depth:
        wrapper._depth += 1
        try:
            connect(wrapper)
        finally:
            wrapper._depth -= 1
        lease = wrapper._lease
        if (
            lease is not None
            and lease.by_transaction
            and not wrapper.in_atomic_block
            and not _is_for_django(sys._getframe(1))
        ):
            wrapper.pin()
    elif wrapper._vacant is AWAITED and wrapper.in_atomic_block:
        _connect_in_block(wrapper)
    else:
        wrapper._vacant = FREE
        checkout.connect(wrapper)


def _is_for_django(frame: FrameType | None) -> bool:
    """Whether it is Django's own code that has called ``ensure_connection()``."""
    while frame is not None and frame.f_globals.get("__name__") in _WAY_TO_CONNECT:
        frame = frame.f_back
    return frame is not None and str(frame.f_globals.get("__name__")).startswith("django.")


def commit(wrapper: LeaseHolder) -> None:
    """Django's."""
    if not fork.noticed[0]:
        fork.notice()
    _end_transaction(wrapper, wrapper.plain.commit)


def rollback(wrapper: LeaseHolder) -> None:
    """Django's."""
    if not fork.noticed[0]:
        fork.notice()
    _end_transaction(wrapper, wrapper.plain.rollback)
    # Its frames refer to the slot.
    wrapper.rollback_exc = None


def _end_transaction(wrapper: LeaseHolder, end: Callable[[], None]) -> None:
    lease, began = wrapper._lease, time.monotonic()
    try:
        end()
    finally:
        if lease is not None:
            lease.count_busy(began)
    # Where the settings turn autocommit off, there is nothing else that would end a transaction.
    if not wrapper.settings_dict["AUTOCOMMIT"]:
        release_if_free(wrapper, is_over=True)


def _connect_in_block(wrapper: LeaseHolder) -> None:
    block = {name: getattr(wrapper, name) for name in checkin.BLOCK}
    # Receivers of connection_created may have blocks of their own.
    wrapper.run_on_commit = []
    try:
        checkout.connect(wrapper)
        wrapper.plain.set_autocommit(False, force_begin_transaction_with_broken_autocommit=True)
        wrapper._vacant = FREE
    except BaseException:
        wrapper.discard()
        raise
    finally:
        wrapper.__dict__.update(block)


@contextmanager
def operation(wrapper: LeaseHolder, deadline: Deadline | None = None) -> Iterator[None]:
    """Around what a backend asks its server without a cursor: the connection stays to the end of it.

    ``deadline``: the checkout's; None: by the pool's timeout.
    """
    outer = wrapper._deadline
    try:
        if deadline is not None:
            wrapper._deadline = deadline
        wrapper._depth += 1
        try:
            wrapper.ensure_connection()
            began = time.monotonic()
            yield
            if wrapper._lease is not None:
                wrapper._lease.count_busy(began)
        finally:
            wrapper._depth -= 1
    finally:
        wrapper._deadline = outer
        release_if_free(wrapper)


def get_autocommit(wrapper: LeaseHolder) -> bool:
    """Django's, without a checkout only to answer this."""
    if (
        wrapper.connection is None
        and wrapper.settings_dict["AUTOCOMMIT"]
        # Where one runs, Django's refuses, or connects.
        and _get_running_loop() is None
        and will_be_transaction_scoped(wrapper)
    ):
        return not wrapper.is_awaited
    wrapper._depth += 1
    try:
        autocommit = wrapper.plain.get_autocommit()
    finally:
        wrapper._depth -= 1
    return bool(autocommit)


def set_autocommit(wrapper: LeaseHolder, autocommit: bool, begins: bool) -> None:
    """Django's, with which ``atomic()`` begins and ends. ``begins``: it begins a transaction in any case."""
    begins_atomic = begins and not autocommit
    if wrapper.connection is None and wrapper.settings_dict["AUTOCOMMIT"]:
        if autocommit:
            # The end of a block that has executed nothing, or whose connection was lost.
            wrapper.validate_no_atomic_block()
            wrapper._vacant = FREE
            wrapper.autocommit = True
            _run_commit_hooks(wrapper)
            return
        if begins_atomic and _begins_lazily(wrapper) and will_be_transaction_scoped(wrapper):
            wrapper.validate_no_atomic_block()
            _await_first_statement(wrapper)
            return
    # The hooks come after the release: they may take their time, or a connection of their own.
    has_hooks = wrapper.run_commit_hooks_on_set_autocommit_on
    wrapper.run_commit_hooks_on_set_autocommit_on = False
    wrapper._depth += 1
    try:
        wrapper.plain.set_autocommit(autocommit, begins)
    finally:
        wrapper._depth -= 1
        wrapper.run_commit_hooks_on_set_autocommit_on = has_hooks
    lease = wrapper._lease
    if lease is not None:
        lease.manual = not autocommit and not begins_atomic
        if autocommit and lease.changes_types:
            wrapper.tell_of_types(lease)
    if autocommit:
        release_if_free(wrapper)
        _run_commit_hooks(wrapper)


def _await_first_statement(wrapper: LeaseHolder) -> None:
    wrapper._vacant = AWAITED
    wrapper.autocommit = False
    # What is left of a block that was closed or lost. Django's connect() clears it: here too late.
    wrapper.closed_in_transaction = False
    wrapper.savepoint_ids = []
    wrapper.atomic_blocks = []
    wrapper.run_on_commit = []
    # The block is the present owner's, not that of a request or scope that begins before it connects.
    owner.current().wrappers[id(wrapper)] = weakref.ref(wrapper)


def _run_commit_hooks(wrapper: LeaseHolder) -> None:
    if wrapper.run_commit_hooks_on_set_autocommit_on:
        wrapper.run_and_clear_commit_hooks()
        wrapper.run_commit_hooks_on_set_autocommit_on = False


def _begins_lazily(wrapper: LeaseHolder) -> bool:
    """Not where BEGIN itself takes a lock, as SQLite's does with these options."""
    try:
        # Also set by code, for one block. It is there once the wrapper has connected.
        mode = wrapper.__dict__["transaction_mode"]
    except KeyError:
        mode = (wrapper.settings_dict.get("OPTIONS") or {}).get("transaction_mode")
    return mode is None or str(mode).upper() == "DEFERRED"


def will_be_transaction_scoped(wrapper: LeaseHolder) -> bool:
    """Whether a checkout at this moment would have transaction scope.

    For that it needs the pool: where there is none yet, this creates it and starts the housekeeper. The
    settings are looked at when it checks out.
    """
    identity = wrapper._identity
    if identity is None or identity.retired:
        identity = checkout.find_identity(wrapper)
    return identity is not None and owner.current().scope(identity.scope) == conf.TRANSACTION


def close(wrapper: LeaseHolder) -> None:
    """Django's: in an atomic block, the end of that."""
    if not fork.noticed[0]:
        fork.notice()
    wrapper.plain.close()
    if wrapper._resting is not None:
        checkin.end_rest(wrapper)
    if wrapper.is_awaited:
        wrapper.closed_in_transaction = wrapper.needs_rollback = True


# -- cursors ------------------------------------------------------------------------------------


def cursor_opened(wrapper: LeaseHolder, lease: Lease, cursor: Any, is_named: bool) -> None:
    """``cursor``: the driver's."""
    opened = OpenCursor(cursor, _collected)
    opened.wrapper, opened.is_named = weakref.ref(wrapper), is_named
    lease.cursors.add(opened)


def cursor_closed(wrapper: LeaseHolder, cursor: Any) -> None:
    """``cursor``: what the backend has made, the driver's own or a wrapper of it."""
    lease = wrapper._lease
    if lease is not None:
        inner = getattr(cursor, "cursor", cursor)
        # A copy: the garbage collector may take others out meanwhile.
        for opened in list(lease.cursors):
            if opened() is inner:
                lease.cursors.discard(opened)
        release_if_free(wrapper)


def _collected(opened: Any) -> None:
    """The callback of an OpenCursor, which the garbage collector calls in any thread, at any point."""
    wrapper = opened.wrapper()
    lease = None if wrapper is None else wrapper._lease
    if lease is None or opened not in lease.cursors or not fork.noticed[0]:
        return
    lease.cursors.discard(opened)
    if opened.is_named:
        # The server still has its portal.
        lease.slot.dirty = not lease.identity.is_shared
    is_safe = wrapper._thread_ident == _thread.get_ident() and lease.identity.reset_mode != "always"
    if is_safe and lease.pool.wants(lease.slot):
        release_if_free(wrapper)


def is_of_testcase(wrapper: LeaseHolder) -> bool:
    """Whether its only blocks are those that Django's ``TestCase`` holds around a test."""
    return wrapper.in_atomic_block and not _blocks_of_code(wrapper)


def why_open(wrapper: LeaseHolder) -> str:
    """Whose transaction it is in, and how to get out of that."""
    if not wrapper.in_atomic_block:
        begun_by = "a statement or set_autocommit(False)"
        return f"in the transaction that {begun_by} has begun. Commit it or roll it back first."
    blocks = _blocks_of_code(wrapper)
    of_requests = wrapper.settings_dict.get("ATOMIC_REQUESTS") and owner.current().request is not None
    if of_requests and blocks and _is_decorator(blocks[0]):
        return (
            "in the transaction that ATOMIC_REQUESTS makes of the view. Decorate the view with "
            "transaction.non_atomic_requests, and use atomic() in it for what belongs together."
        )
    return "inside of atomic(). Release it before that block, or after it."


def _blocks_of_code(wrapper: LeaseHolder) -> list[Any]:
    return [block for block in wrapper.atomic_blocks if not getattr(block, "_from_testcase", False)]


def _is_decorator(block: Any) -> bool:
    """Whether a function that runs now was decorated with this ``atomic()``: ATOMIC_REQUESTS does that."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "contextlib" and frame.f_locals.get("self") is block:
            return True
        frame = frame.f_back
    return False


def release_if_free(wrapper: LeaseHolder, is_over: bool = False) -> None:
    """Check the connection in, unless something needs it.

    No I/O where the pool wants it back, but for drivers that can't tell whether a transaction is open
    (rollback), and with ``RESET = "always"``.

    ``is_over``: it is certain that no transaction is open.
    """
    lease = wrapper._lease
    if lease is None or lease.is_needed or wrapper._depth or wrapper._thread_sharing_count:
        return
    slot = lease.slot
    if slot.dirty and (slot.locks or not owner.current().may_rest):
        return
    autocommit = wrapper.autocommit
    is_clean = lease.is_clean(autocommit)
    if lease.driver.has_transactions and (
        wrapper.in_atomic_block or not (is_over or (is_clean and autocommit) or lease.is_over(autocommit))
    ):
        return
    try:
        checkin.check_in(wrapper, may_rest=True, is_clean=is_clean)
    finally:
        wrapper.unset_connection()
