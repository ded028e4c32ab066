"""Connections that can't be used any more, and what becomes of the transaction on them."""

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
    """Django's translation of database errors, or the backend's, which also notices what they leave behind.

    After an error that has killed the connection, or an exception from elsewhere (a timeout, a
    kill) that struck in the middle of a statement, the next answer could be another statement's.
    """

    wrapper: BrokenConnections
    # Since when (time.monotonic()) its user has been inside of the driver; 0 while there is no connection.
    _began = 0.0

    def __enter__(self) -> None:
        if not fork.noticed[0]:
            fork.notice()
        wrapper = self.wrapper
        if wrapper._slot is None:
            self._began = 0.0
            return
        self._began = time.monotonic()
        if not (wrapper.in_atomic_block or wrapper._pool.dialect.remembers_transaction):
            # Before every statement: afterwards this driver can't tell whether a transaction was open.
            connection = wrapper._slot.connection
            if connection is not None:
                wrapper._was_in_transaction = wrapper._pool.dialect.in_transaction(connection) is not False

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        began = self._began
        if began:
            # These can be nested: no second counts twice.
            self._began = now = time.monotonic()
            self.wrapper._pool.counts.busy_seconds += now - began
        if exc_type is None:
            return
        translate = getattr(self.wrapper, "translate", super().__exit__)
        try:
            translate(exc_type, exc_value, traceback)
        finally:
            self.wrapper.lose_if_broken(exc_value)


class BrokenConnections(Leasing):
    """Loses what is broken."""

    @cached_property
    def wrap_database_errors(self) -> ConnectionErrors:
        return ConnectionErrors(self)

    def is_usable(self) -> bool:
        if not fork.noticed[0]:
            fork.notice()
        slot = self._slot
        if slot is None:
            return self.connection is not None and not self._lost and super().is_usable()
        try:
            usable = self._pool.dialect.usable(self.connection, super().is_usable, self._seconds_to_ask())
        except BaseException:
            self.lose()
            raise
        if usable:
            self._pool.validated(slot)
        else:
            # Django's health check closes next, and doesn't say why.
            slot.broken = True
        return usable

    def lose_if_broken(self, error: BaseException) -> None:
        """Called with every exception that leaves the driver."""
        slot = self._slot
        if slot is None or not slot.opened_at:
            # While it is opened, whoever opens it sees to that.
            return
        dialect = self._pool.dialect
        broken = dialect.broken(slot.connection)
        if isinstance(error, self.Database.Error):
            if broken:
                self._pool.suspect_all()
                self._pool.note("lost", error, request=request_label(slot.holder))
                self.lose()
            elif dialect.evicts(error):
                # This request may go on with it.
                slot.broken = True
        elif broken or dialect.interrupted(slot.connection, error):
            self._pool.note("lost", error, request=request_label(slot.holder))
            self.lose()

    def lose(self) -> None:
        """Cut this connection: its slot is free at once, and a transaction on it fails."""
        slot, dialect = self._slot, self._pool.dialect
        if slot is None:
            return
        if dialect.remembers_transaction and slot.connection is not None:
            self._was_in_transaction = dialect.in_transaction(slot.connection) is not False
        self._pool.discard(self._detach_slot(), Closed.BROKEN)
        if not dialect.has_transactions:
            self._unset_connection()
            return
        if self.in_atomic_block:
            self._lose_block()
            return
        ends_atomic = self.settings_dict["AUTOCOMMIT"] and not (self.autocommit or self._manual)
        if (self._was_in_transaction or self._manual) and not ends_atomic:
            self._lost = True
        else:
            # Nothing would be torn apart by going on with another connection.
            self.connection = None
