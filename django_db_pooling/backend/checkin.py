"""Checkin: from a used connection to a clean slot.

Where Django would close a connection, at the end of its owner, and in forked children.
"""

from __future__ import annotations

from collections import deque

from django.db import Error as DjangoError
from django.db.backends.signals import connection_created

from django_db_pooling import owner
from django_db_pooling.backend.lease import Leasing
from django_db_pooling.log import redact
from django_db_pooling.pool.holders import request_label
from django_db_pooling.pool.slot import Slot
from django_db_pooling.process import fork


class Checkin(Leasing):
    """Checks connections in. One that can't be made clean is closed instead."""

    def _close(self) -> None:
        """Called by Django's close(), which then sets ``connection`` to None or marks the block as closed."""
        if self._slot is None:
            if not self._lost:
                super()._close()
        elif self.in_atomic_block and self._pool.driver.has_transactions:
            self._pool.close(self._detach_slot())
            self._lost = True
        else:
            try:
                self._check_in()
            finally:
                # At once, though close() does it: by now the connection may be another wrapper's.
                self._unset_connection()

    def close_if_unusable_or_obsolete(self) -> None:
        """Called by Django when a request starts and ends: the scope of a connection is over."""
        if not fork.noticed[0]:
            fork.notice()
        if self._resting is not None:
            self.end_rest()
        if self.connection is None:
            return
        if self.in_atomic_block or not self.holds:
            super().close_if_unusable_or_obsolete()
        else:
            self.give_back()

    def give_back(self) -> None:
        """The scope is over: check in (I/O where the connection isn't clean), whatever state this is in."""
        if self.in_atomic_block:
            self._pool.journal.note("atomic_left_open", request=request_label(owner.current().holder))
        try:
            if self._resting is not None:
                self._resume()
            if self._slot is not None:
                self._check_in()
        finally:
            self._clear_state()

    def end_rest(self) -> None:
        """Check in what was left at rest (I/O)."""
        if self._resume():
            try:
                self._check_in()
            finally:
                self._unset_connection()

    def abandon(self) -> None:
        """The owner has ended: check in what is clean, drop the rest. No I/O: this runs in finalizers."""
        if self._resting is not None and not self.is_shared:
            self._resume()
        if self._slot is None or self.is_shared:
            return
        slot = self._detach_slot()
        if self._may_be_reused(slot) and (
            self._is_clean(slot) or (not self._is_broken(slot) and self._in_transaction(slot) is None)
        ):
            slot.maybe_in_transaction = self._in_transaction(slot) is None
            slot.dirty = self._must_reset(slot)
            self._pool.checkin(slot)
        else:
            self._pool.discard(slot)
        self._clear_state()

    def inherit(self) -> None:
        """In a forked child: the connection is the parent's."""
        self._resting = None
        if self._slot is not None:
            self._slot = None
            if self.in_atomic_block and self._pool.driver.has_transactions:
                self._lose_block()
            else:
                self._unset_connection()

    # -- the steps ----------------------------------------------------------------------------

    def _check_in(self, may_rest: bool = False) -> None:
        """Roll back and reset where it is necessary (I/O), then check in; close what can't be made clean.

        ``may_rest``: a changed session is left at rest, this wrapper's until others need its slot.
        """
        slot = self._detach_slot()
        try:
            rests = may_rest and slot.dirty and self._may_be_reused(slot)
            clean = not rests and (
                self._may_be_reused(slot)
                and (self._is_clean(slot) or (not self._is_broken(slot) and self._roll_back(slot)))
                and (not self._must_reset(slot) or self._reset_session(slot))
            )
        except BaseException:
            self._pool.discard(slot)
            raise
        if rests:
            self._resting = self._pool.rest(slot)
        elif clean:
            self._pool.checkin(slot)
        else:
            self._pool.close(slot)

    def _may_be_reused(self, slot: Slot) -> bool:
        """Whether it isn't known to be broken or stale. No I/O."""
        pool = self._pool
        if slot.broken or not pool.wants(slot) or not pool.serves(self):
            return False
        if self._cursors and (self._is_broken(slot) or not self._detach_cursors()):
            return False
        if self.errors_occurred:
            # Django would ping the server here. The next checkout does.
            pool.suspect(slot)
        return True

    def _detach_cursors(self) -> bool:
        for ref in list(self._cursors):
            cursor = ref()
            if cursor is not None and not self._pool.driver.detach_cursor(cursor):
                return False
        return True

    def _roll_back(self, slot: Slot) -> bool:
        """End a transaction that was left open (I/O): never by a commit. False if that fails."""
        journal = self._pool.journal
        # Where autocommit is off by the settings, there is always one.
        was_left_open = (
            not self.in_atomic_block and self.settings_dict["AUTOCOMMIT"] and self._in_transaction(slot)
        )
        try:
            self._pool.driver.rollback(slot.connection, self._seconds_left())
            if self.autocommit != self.settings_dict["AUTOCOMMIT"]:
                self._set_autocommit(self.settings_dict["AUTOCOMMIT"])
        except (self.Database.Error, DjangoError, OSError) as error:
            journal.note("rollback_failed", error=redact(error))
            return False
        if was_left_open:
            journal.note("rolled_back", request=request_label(slot.holder))
        return True

    def _must_reset(self, slot: Slot) -> bool:
        return slot.dirty or self._pool.reset_mode == "always"

    def _reset_session(self, slot: Slot) -> bool:
        """Make the session as it was after opening (I/O), outside of a transaction. False if it can't."""
        self.in_atomic_block = self.needs_rollback = False
        # These statements are not in the user's query log, and don't pass the user's wrappers of execute().
        log_and_wrappers = self.queries_log, self.execute_wrappers
        self.queries_log, self.execute_wrappers = deque(maxlen=1), []
        try:
            if slot.beyond_reset or not self._pool.driver.reset(slot.connection, self._seconds_left()):
                return False
            self._set_autocommit(self.settings_dict["AUTOCOMMIT"])
            self.init_connection_state()
            connection_created.send(sender=self.__class__, connection=self)
        except (self.Database.Error, DjangoError, OSError) as error:
            self._pool.journal.note("reset_failed", error=redact(error))
            return False
        finally:
            self.queries_log, self.execute_wrappers = log_and_wrappers
        slot.dirty = False
        slot.locks = 0
        self._pool.counts.resets += 1
        return not self._pool.driver.broken(slot.connection)

    def _clear_state(self) -> None:
        """No block and no transaction is left of the scope that is over."""
        self.connection = None
        self._lost = False
        self.in_atomic_block = False
        self.closed_in_transaction = False
        self.rollback_exc = None
        self.savepoint_ids = []
        self.atomic_blocks = []
        self.run_on_commit = []
