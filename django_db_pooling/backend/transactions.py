"""Transaction scope: a connection is held only while a transaction, a cursor or a pin needs it.

In it ``atomic()`` begins with its first statement. In request scope nothing is deferred or checked in here.
In both, ``set_autocommit()`` runs the commit hooks itself and remembers who has turned autocommit off,
``rollback()`` forgets ``rollback_exc``, and ``close()`` ends a rest.
"""

from __future__ import annotations

import _thread
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import Error

from django_db_pooling import conf, owner
from django_db_pooling.backend.checkout import Checkout
from django_db_pooling.backend.cursor import OpenCursor, collected
from django_db_pooling.backend.errors import BrokenConnections
from django_db_pooling.backend.statements import SessionState
from django_db_pooling.pool.slot import Slot
from django_db_pooling.process import fork
from django_db_pooling.process.deadline import Deadline

# Attributes of an atomic block, which may be older than its connection: Django's connect() resets them.
_BLOCK = (
    "in_atomic_block",
    "savepoint_ids",
    "atomic_blocks",
    "needs_rollback",
    "run_on_commit",
    "commit_on_exit",
)


class Transactions(Checkout, SessionState, BrokenConnections):
    """Checks out at the first statement of a transaction, and in after the last."""

    def connect(self) -> None:
        """Begins a block that was entered without a connection.

        Unless it is one of our own methods that needs a connection, it is the user's code that has called
        ``ensure_connection()``, to use ``connection.connection`` next: that pins.
        """
        is_for_user = not self._depth
        self._depth += 1
        try:
            if self.is_deferred:
                self._connect_in_block()
            else:
                self._deferred = False
                super().connect()
            has_block = self.in_atomic_block
            if is_for_user and self._transaction_scoped and self._slot is not None and not has_block:
                self.pin()
        finally:
            self._depth -= 1

    def _connect_in_block(self) -> None:
        block = {name: getattr(self, name) for name in _BLOCK}
        # Receivers of connection_created may have blocks of their own.
        self.run_on_commit = []
        try:
            super().connect()
            super().set_autocommit(False, force_begin_transaction_with_broken_autocommit=True)
            self._deferred = False
        except BaseException:
            if self._slot is not None:
                self._pool.discard(self._detach_slot())
            self.connection = None
            raise
        finally:
            self.__dict__.update(block)

    @contextmanager
    def operation(self, deadline: Deadline | None = None) -> Iterator[None]:
        """Around what a backend asks its server without a cursor: the connection stays to the end of it.

        ``deadline``: the checkout's; None: by the pool's timeout.
        """
        outer = self._deadline
        if deadline is not None:
            self._deadline = deadline
        self._depth += 1
        try:
            self.ensure_connection()
            yield
        finally:
            self._depth -= 1
            self._deadline = outer
            self.release_if_free()

    def get_autocommit(self) -> bool:
        """Django's, without a checkout only to answer this."""
        if (
            self.connection is None
            and self.settings_dict["AUTOCOMMIT"]
            and self._will_be_transaction_scoped()
        ):
            return not self.is_deferred
        self._depth += 1
        try:
            return super().get_autocommit()
        finally:
            self._depth -= 1

    def set_autocommit(
        self, autocommit: bool, force_begin_transaction_with_broken_autocommit: bool = False
    ) -> None:
        """Django's, with which ``atomic()`` begins and ends."""
        if not fork.noticed[0]:
            fork.notice()
        begins_atomic = not autocommit and force_begin_transaction_with_broken_autocommit
        if self.connection is None and self.settings_dict["AUTOCOMMIT"]:
            if autocommit:
                # The end of a block that has executed nothing, or whose connection was lost.
                self.validate_no_atomic_block()
                self._deferred = False
                self.autocommit = True
                self._run_commit_hooks()
                return
            if begins_atomic and self._begins_lazily() and self._will_be_transaction_scoped():
                self.validate_no_atomic_block()
                self._defer()
                return
        # The hooks come after the release: they may take their time, or a connection of their own.
        has_hooks, self.run_commit_hooks_on_set_autocommit_on = (
            self.run_commit_hooks_on_set_autocommit_on,
            False,
        )
        self._depth += 1
        try:
            super().set_autocommit(autocommit, force_begin_transaction_with_broken_autocommit)
        finally:
            self._depth -= 1
            self.run_commit_hooks_on_set_autocommit_on = has_hooks
        self._manual = not autocommit and not begins_atomic
        if autocommit:
            self.release_if_free()
            self._run_commit_hooks()

    def commit(self) -> None:
        if not fork.noticed[0]:
            fork.notice()
        super().commit()
        self._release_without_autocommit()

    def rollback(self) -> None:
        if not fork.noticed[0]:
            fork.notice()
        super().rollback()
        # Its frames refer to the slot.
        self.rollback_exc = None
        self._release_without_autocommit()

    def _release_without_autocommit(self) -> None:
        """Where the settings turn autocommit off, there is nothing else that would end a transaction."""
        if not self.settings_dict["AUTOCOMMIT"]:
            self.release_if_free(is_over=True)

    def _defer(self) -> None:
        """Begin with the first statement."""
        self._deferred = True
        self.autocommit = False
        # What is left of a block that was closed or lost. Django's connect() clears it: here too late.
        self.closed_in_transaction = False
        self.savepoint_ids = []
        self.atomic_blocks = []
        self.run_on_commit = []
        # The block is the present owner's, not that of a request or scope that begins before it connects.
        owner.current().add(self)

    def _run_commit_hooks(self) -> None:
        if self.run_commit_hooks_on_set_autocommit_on:
            self.run_and_clear_commit_hooks()
            self.run_commit_hooks_on_set_autocommit_on = False

    def _begins_lazily(self) -> bool:
        """Not where BEGIN itself takes a lock, as SQLite's does with these options."""
        mode = (self.settings_dict.get("OPTIONS") or {}).get("transaction_mode") or "DEFERRED"
        return str(mode).upper() == "DEFERRED"

    def _will_be_transaction_scoped(self) -> bool:
        """Whether a checkout at this moment would have transaction scope.

        For that it needs the pool: where there is none yet, this creates it and starts the housekeeper.
        """
        return self._find_pool() and owner.current().scope(self._pool.scope) == conf.TRANSACTION

    def is_usable(self) -> bool:
        """Django's. In transaction scope without a connection: of one that is checked out for this."""
        if self.connection is not None or not self._will_be_transaction_scoped():
            return super().is_usable()
        try:
            with self.cursor():
                return super().is_usable()
        except Error:
            return False

    @contextmanager
    def temporary_connection(self) -> Iterator[Any]:
        """Django's, which would close a connection that it had to open: in a block that breaks the block."""
        with self.cursor() if self.is_deferred else super().temporary_connection() as cursor:
            yield cursor

    def close(self) -> None:
        """Django's: in an atomic block, the end of that."""
        if not fork.noticed[0]:
            fork.notice()
        super().close()
        if self._resting is not None:
            self.end_rest()
        if self.is_deferred:
            self.closed_in_transaction = self.needs_rollback = True

    def end_rest(self) -> None:
        """Check in what was left at rest (I/O). A block that hasn't begun goes on."""
        block = {name: getattr(self, name) for name in (*_BLOCK, "_deferred", "autocommit")}
        try:
            super().end_rest()
        finally:
            self.__dict__.update(block)

    # -- cursors ------------------------------------------------------------------------------

    def _cursor(self, name: str | None = None) -> Any:
        if not fork.noticed[0]:
            fork.notice()
        self._depth += 1
        try:
            cursor = super()._cursor(name)
            if self._transaction_scoped and self._slot is not None:
                opened = cursor.opened = OpenCursor(cursor, collected)
                opened.wrapper, opened.named = weakref.ref(self), name is not None
                self._open_cursors.add(opened)
        except BaseException:
            self._depth -= 1
            self.release_if_free()
            raise
        self._depth -= 1
        return cursor

    def cursor_closed(self, cursor: OpenCursor) -> None:
        self._open_cursors.discard(cursor)
        self.release_if_free()

    def cursor_collected(self, cursor: OpenCursor) -> None:
        """Called by a finalizer: in any thread or greenlet, in the middle of anything."""
        slot = self._slot
        if slot is None or cursor not in self._open_cursors or not fork.noticed[0]:
            return
        self._open_cursors.discard(cursor)
        if cursor.named:
            # The server still has its portal.
            slot.dirty = True
        pool = self._pool
        is_safe = self._thread_ident == _thread.get_ident() and pool.reset_mode != "always"
        if is_safe and pool.wants(slot):
            self.release_if_free()

    def release_if_free(self, is_over: bool = False) -> None:
        """Check the connection in, unless something needs it.

        No I/O where the pool wants it back, but for drivers that can't tell whether a transaction is open
        (rollback), and with ``RESET = "always"``.

        ``is_over``: it is certain that no transaction is open.
        """
        slot = self._slot
        if (
            slot is None
            or not self._transaction_scoped
            or self._depth
            or self._open_cursors
            or self._pinned
            or self.is_shared
            or (slot.dirty and (slot.locks or not owner.current().may_rest))
        ):
            return
        if self._pool.driver.has_transactions and (
            self.in_atomic_block or not (is_over or self._is_over(slot))
        ):
            return
        try:
            self._check_in(may_rest=True)
        finally:
            self._unset_connection()

    def _is_over(self, slot: Slot) -> bool:
        """Whether no transaction is open. Where the driver can't tell: whether no statement has begun one."""
        if not self.autocommit:
            return False
        if self._is_clean(slot):
            return True
        return not self._began_by_text and not self._is_broken(slot) and self._in_transaction(slot) is None
