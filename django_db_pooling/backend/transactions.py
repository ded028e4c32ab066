"""Transaction scope: a connection is held only while a transaction, a cursor or a pin needs it.

Then ``atomic()`` begins with its first statement. In request scope nothing of this has an effect.
"""

from __future__ import annotations

import _thread
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import Error
from django.db.transaction import TransactionManagementError

from django_db_pooling import conf, owner
from django_db_pooling.backend.lease import Leasing
from django_db_pooling.backend.statements import traits
from django_db_pooling.pool.slots import Slot
from django_db_pooling.process import fork
from django_db_pooling.process.deadline import Deadline

# What Django's connect() resets and an atomic block has had since before its connection.
_OF_A_BLOCK = (
    "in_atomic_block",
    "savepoint_ids",
    "atomic_blocks",
    "needs_rollback",
    "run_on_commit",
    "commit_on_exit",
)


class OpenCursor(weakref.ref[Any]):
    """A cursor that is neither closed nor collected."""

    __slots__ = ("named", "wrapper")

    wrapper: weakref.ref[Transactions]
    # It is one of the server's.
    named: bool


def _collected(cursor: Any) -> None:
    """Called wherever the garbage collector strikes."""
    wrapper = cursor.wrapper()
    if wrapper is not None:
        wrapper.cursor_collected(cursor)


class Transactions(Leasing):
    """Begins with the first statement, and gives back after the last."""

    # What is checked out goes back as soon as nothing needs it: decided at each checkout.
    _transaction_scoped = False
    # How many of this wrapper's own methods are on the stack: they need the connection to the end.
    _inside = 0
    _open_cursors: set[OpenCursor]

    def connect(self) -> None:
        """Begins a block that was entered without a connection.

        Where none of our own methods asks for it, it is ``ensure_connection()`` in code of the user's,
        which may go on to ``connection.connection``: then it is kept.
        """
        is_for_user = not self._inside
        self._inside += 1
        try:
            if self.is_deferred:
                self._connect_in_a_block()
            else:
                self._deferred = False
                super().connect()
            if (
                is_for_user
                and self._transaction_scoped
                and self._slot is not None
                and not self.in_atomic_block
            ):
                self.pin()
        finally:
            self._inside -= 1

    def _connect_in_a_block(self) -> None:
        block = {name: getattr(self, name) for name in _OF_A_BLOCK}
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

        ``deadline``: of the checkout, where there is one; None: what the pool's timeout makes of it.
        """
        outer = self._deadline
        if deadline is not None:
            self._deadline = deadline
        self._inside += 1
        try:
            self.ensure_connection()
            yield
        finally:
            self._inside -= 1
            self._deadline = outer
            self.release_if_free()

    def checked_out(self, scope: str) -> None:
        """A connection is there. ``scope``: the one that applies at this moment."""
        # A block's scope is the one in which it was entered.
        self._transaction_scoped = self._deferred or scope == conf.TRANSACTION
        self._pinned = self._executed = self._began_by_text = False
        self._open_cursors = set()

    def get_autocommit(self) -> bool:
        """Django's, without taking a connection only to answer this."""
        if self.connection is None and self.settings_dict["AUTOCOMMIT"] and self._applies():
            return not self.is_deferred
        self._inside += 1
        try:
            return super().get_autocommit()
        finally:
            self._inside -= 1

    def set_autocommit(
        self, autocommit: bool, force_begin_transaction_with_broken_autocommit: bool = False
    ) -> None:
        """Django's: where ``atomic()`` begins and ends."""
        if not fork.noticed[0]:
            fork.notice()
        begins_atomic = not autocommit and force_begin_transaction_with_broken_autocommit
        if self.connection is None and self.settings_dict["AUTOCOMMIT"]:
            if autocommit:
                # The end of a block that has executed nothing, or whose connection was lost.
                self.validate_no_atomic_block()
                self._deferred = False
                self.autocommit = True
                self._run_hooks()
                return
            if begins_atomic and self._begins_lazily() and self._applies():
                self.validate_no_atomic_block()
                self._defer()
                return
        # The hooks come after the release: they may take their time, or a connection of their own.
        has_hooks, self.run_commit_hooks_on_set_autocommit_on = (
            self.run_commit_hooks_on_set_autocommit_on,
            False,
        )
        self._inside += 1
        try:
            super().set_autocommit(autocommit, force_begin_transaction_with_broken_autocommit)
        finally:
            self._inside -= 1
            self.run_commit_hooks_on_set_autocommit_on = has_hooks
        self._manual = not autocommit and not begins_atomic
        if autocommit:
            self.release_if_free()
            self._run_hooks()

    def commit(self) -> None:
        if not fork.noticed[0]:
            fork.notice()
        super().commit()
        self._ended()

    def rollback(self) -> None:
        if not fork.noticed[0]:
            fork.notice()
        super().rollback()
        # Django keeps it, and its frames keep what they refer to.
        self.rollback_exc = None
        self._ended()

    def _ended(self) -> None:
        """Where autocommit is off by the settings, each statement may begin a transaction anywhere."""
        if not self.settings_dict["AUTOCOMMIT"]:
            self.release_if_free(is_over=True)

    def _defer(self) -> None:
        """Begin with the first statement."""
        self._deferred = True
        self.autocommit = False
        # What a block that was closed or lost may have left. Django's connect() does it, and it comes later.
        self.closed_in_transaction = False
        self.savepoint_ids = []
        self.atomic_blocks = []
        self.run_on_commit = []
        # It is whoever is at it now whose block this is, not a request or scope further in.
        owner.current().add(self)

    def _run_hooks(self) -> None:
        if self.run_commit_hooks_on_set_autocommit_on:
            self.run_and_clear_commit_hooks()
            self.run_commit_hooks_on_set_autocommit_on = False

    def _begins_lazily(self) -> bool:
        """Not where BEGIN itself takes a lock, as SQLite's can be told to."""
        mode = (self.settings_dict.get("OPTIONS") or {}).get("transaction_mode") or "DEFERRED"
        return str(mode).upper() == "DEFERRED"

    def _applies(self) -> bool:
        """Whether what this would check out at this moment had transaction scope."""
        return self._find_pool() and owner.current().scope(self._pool.scope) == conf.TRANSACTION

    def is_usable(self) -> bool:
        """Django's. Where nothing is held between statements, of a connection that is taken to be asked."""
        if self.connection is not None or not self._applies():
            return super().is_usable()
        try:
            with self.cursor():
                return super().is_usable()
        except Error:
            return False

    @contextmanager
    def temporary_connection(self) -> Iterator[Any]:
        """Django's, which closes at the end what was not open before: in a block that would break it."""
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
        """Give back what was left at rest (I/O). A block that hasn't begun goes on."""
        block = {name: getattr(self, name) for name in (*_OF_A_BLOCK, "_deferred", "autocommit")}
        try:
            super().end_rest()
        finally:
            self.__dict__.update(block)

    # -- cursors ------------------------------------------------------------------------------

    def _cursor(self, name: str | None = None) -> Any:
        if not fork.noticed[0]:
            fork.notice()
        self._inside += 1
        try:
            cursor = super()._cursor(name)
            if self._transaction_scoped and self._slot is not None:
                opened = cursor.opened = OpenCursor(cursor, _collected)
                opened.wrapper, opened.named = weakref.ref(self), name is not None
                self._open_cursors.add(opened)
        except BaseException:
            self._inside -= 1
            self.release_if_free()
            raise
        self._inside -= 1
        return cursor

    def cursor_closed(self, cursor: OpenCursor) -> None:
        self._open_cursors.discard(cursor)
        self.release_if_free()

    def cursor_collected(self, cursor: OpenCursor) -> None:
        """A finalizer: in any thread or greenlet, in the middle of anything."""
        slot = self._slot
        if slot is None or cursor not in self._open_cursors or not fork.noticed[0]:
            return
        self._open_cursors.discard(cursor)
        if cursor.named:
            # What the server keeps for it was never closed.
            slot.dirty = True
        pool = self._pool
        is_safe = self._thread_ident == _thread.get_ident() and pool.reset_mode != "always"
        if is_safe and pool.wants(slot):
            self.release_if_free()

    def refuse_to_ask(self, sql: Any) -> None:
        """Before the first statement of a checkout. What the last one has left is somebody else's."""
        if self.in_atomic_block or len(self._open_cursors) > 1 or self._pinned:
            return
        if traits(self.vendor, sql).asks:
            raise TransactionManagementError(
                "This asks for what the session's last statement has left, and in transaction scope each "
                "statement may have another session. Wrap both in atomic(), or use one cursor."
            )

    def release_if_free(self, is_over: bool = False) -> None:
        """Give the connection back, unless something needs it. No I/O where the pool keeps it.

        ``is_over``: it is certain that no transaction is open.
        """
        slot = self._slot
        if (
            slot is None
            or not self._transaction_scoped
            or self._inside
            or self._open_cursors
            or self._pinned
            or self.is_shared
            or (slot.dirty and (slot.locks or not owner.current().may_rest))
        ):
            return
        if self._pool.dialect.has_transactions and (
            self.in_atomic_block or not (is_over or self._is_over(slot))
        ):
            return
        try:
            self._give_back(may_rest=True)
        finally:
            self._unset_connection()

    def _is_over(self, slot: Slot) -> bool:
        """Whether no transaction is open; where the driver can't tell, whether no statement begins one."""
        if not self.autocommit:
            return False
        if self._is_clean(slot):
            return True
        return not self._began_by_text and not self._damaged(slot) and self._in_transaction(slot) is None
