"""Broken connections: how an error is recognised as one, and what happens to a transaction then."""

from __future__ import annotations

import time
from typing import Any

from django.db.utils import DatabaseErrorWrapper
from django.utils.functional import cached_property

from django_db_pooling.backend.lease import Leasing
from django_db_pooling.pool.holders import request_label
from django_db_pooling.pool.stats import Closed
from django_db_pooling.process import fork


class ConnectionErrors(DatabaseErrorWrapper):
    """Django's translation of database errors, or the backend's, which also reports them to the wrapper.

    An error may say that the connection is broken. Another exception (a timeout, a kill) may have left
    an answer unread, which the next statement would take for its own.
    """

    wrapper: BrokenConnections
    # When the driver was entered (time.monotonic()), 0 without a connection.
    _began = 0.0

    def __enter__(self) -> None:
        if not fork.noticed[0]:
            fork.notice()
        wrapper = self.wrapper
        if wrapper._slot is None:
            self._began = 0.0
            return
        self._began = time.monotonic()
        if not (wrapper.in_atomic_block or wrapper._pool.driver.remembers_transaction):
            # Before every statement: once the connection is broken, this driver doesn't know it.
            connection = wrapper._slot.connection
            if connection is not None:
                wrapper._was_in_transaction = wrapper._pool.driver.in_transaction(connection) is not False

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        began = self._began
        if began:
            # Django nests these: no second counts twice.
            self._began = now = time.monotonic()
            self.wrapper._pool.counts.busy_seconds += now - began
        if exc_type is None:
            return
        translate = getattr(self.wrapper, "translate", super().__exit__)
        try:
            translate(exc_type, exc_value, traceback)
        finally:
            self.wrapper.statement_failed(exc_value)


class BrokenConnections(Leasing):
    """Finds out that a connection is broken, and frees its slot."""

    @cached_property
    def wrap_database_errors(self) -> ConnectionErrors:
        return ConnectionErrors(self)

    def is_usable(self) -> bool:
        """Django's (I/O)."""
        if not fork.noticed[0]:
            fork.notice()
        slot = self._slot
        if slot is None:
            return self.connection is not None and not self._lost and super().is_usable()
        try:
            usable = self._pool.driver.usable(self.connection, super().is_usable, self._seconds_to_ask())
        except BaseException:
            self.lose()
            raise
        if usable:
            self._pool.validated(slot)
        else:
            # After a health check Django calls close(), which doesn't get the reason.
            slot.broken = True
        return usable

    def statement_failed(self, error: BaseException) -> None:
        """Called with every exception that leaves the driver."""
        slot = self._slot
        if slot is None or not slot.opened_at:
            # What fails while it is opened is checkout's.
            return
        driver = self._pool.driver
        broken = driver.broken(slot.connection)
        if isinstance(error, self.Database.Error):
            if broken:
                self._pool.suspect_all()
                self._pool.journal.trouble("lost", error, request=request_label(slot.holder))
                self.lose()
            elif driver.evicts(error):
                # This request may go on with it.
                slot.broken = True
        elif broken or driver.interrupted(slot.connection, error):
            self._pool.journal.trouble("lost", error, request=request_label(slot.holder))
            self.lose()

    def lose(self) -> None:
        """Cut this connection: its slot is free at once, and a transaction on it fails."""
        slot, driver = self._slot, self._pool.driver
        if slot is None:
            return
        if driver.remembers_transaction and slot.connection is not None:
            self._was_in_transaction = driver.in_transaction(slot.connection) is not False
        self._pool.discard(self._detach_slot(), Closed.BROKEN)
        if not driver.has_transactions:
            self._unset_connection()
            return
        if self.in_atomic_block:
            self._lose_block()
            return
        ends_atomic = self.settings_dict["AUTOCOMMIT"] and not (self.autocommit or self._manual)
        if (self._was_in_transaction or self._manual) and not ends_atomic:
            self._lost = True
        else:
            # No transaction would be split if the next statement ran on another connection.
            self.connection = None
