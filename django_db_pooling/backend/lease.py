"""The lease: one checkout, from its beginning to its end, and the questions about it. Needs no Django."""

from __future__ import annotations

import time
import weakref
from enum import Enum
from typing import Any

from django_db_pooling.pool.slot import Slot
from django_db_pooling.process.observers import observers


class State(Enum):
    """What a wrapper's ``connection`` is. docs/internals.rst draws how one leads to another."""

    # None.
    FREE = "free"
    # None, in an atomic block that begins with its first statement.
    AWAITED = "awaited"
    # The slot's. There is a lease.
    HELD = "held"
    # A dead object, so that statements fail until the transaction has ended.
    LOST = "lost"


# Before Python 3.12 a member of an Enum takes longer to look up than a function takes to call.
FREE, AWAITED, HELD, LOST = State


class OpenCursor(weakref.ref[Any]):
    """A driver's cursor, neither closed nor collected. In transaction scope it holds the connection."""

    __slots__ = ("is_named", "wrapper")

    wrapper: weakref.ref[Any]
    # It has a portal on the server.
    is_named: bool


class Lease:
    """What lives as long as a checkout. ``identity``: of the connection; ``by_transaction``: it ends when no
    transaction, cursor or pin needs the connection, and not with the request.
    """

    __slots__ = (
        "busy_since",
        "by_transaction",
        "changes_types",
        "cursors",
        "driver",
        "executed",
        "has_begun_by_text",
        "identity",
        "manual",
        "params",
        "pinned",
        "pool",
        "slot",
        "was_in_transaction",
    )

    def __init__(self, slot: Slot, identity: Any, by_transaction: bool) -> None:
        self.slot = slot
        self.pool = slot.pool
        self.driver = slot.pool.driver
        self.identity = identity
        self.by_transaction = by_transaction
        # It lasts to the end of the request or scope.
        self.pinned = False
        # The session's last statement was this wrapper's, or needn't be.
        self.executed = not by_transaction
        # A statement has been executed whose text begins a transaction.
        self.has_begun_by_text = False
        # One has changed the types of the database: what was opened before doesn't know them.
        self.changes_types = False
        # The transaction is one of set_autocommit(False), which has no end of its own.
        self.manual = False
        # When the present or last statement began.
        self.busy_since = 0.0
        # A transaction was open before the last statement, for drivers that don't remember that.
        self.was_in_transaction = False
        # While it is opened: the parameters of connecting.
        self.params: dict[str, Any] = {}
        # Driver's cursors that still exist.
        self.cursors: set[weakref.ref[Any]] = set()

    def forget_statements(self) -> None:
        """Those until now were part of the checkout."""
        self.executed = not self.by_transaction

    def count_busy(self, began: float) -> None:
        """What began then, of time.monotonic(), has ended."""
        try:
            self.pool.counts.busy_seconds += time.monotonic() - began
        except Exception as error:
            observers.failed("counting", error)

    # ``autocommit``: the wrapper's.

    def is_clean(self, autocommit: bool) -> bool:
        """Whether there is certainly nothing to roll back or to read."""
        try:
            return autocommit == self.identity.autocommit and bool(self.driver.is_clean(self.slot.connection))
        except Exception as error:
            observers.failed("looking at a connection", error)
            return False

    def is_damaged(self) -> bool:
        """Whether the connection is broken, or part of a result is still to come."""
        connection = self.slot.connection
        try:
            return bool(self.driver.broken(connection) or self.driver.unread(connection))
        except Exception as error:
            observers.failed("looking at a connection", error)
            return True

    def in_transaction(self, autocommit: bool) -> bool | None:
        """None where only the server knows."""
        if autocommit != self.identity.autocommit:
            return True
        try:
            found: bool | None = self.driver.in_transaction(self.slot.connection)
        except Exception as error:
            observers.failed("looking for a transaction", error)
            return None
        return found

    def is_over(self, autocommit: bool) -> bool:
        """Whether no transaction is open. Where the driver can't tell: whether no statement has begun one."""
        if not autocommit:
            return False
        if self.is_clean(autocommit):
            return True
        return (
            not self.has_begun_by_text and not self.is_damaged() and self.in_transaction(autocommit) is None
        )

    def living_cursors(self) -> list[Any]:
        """The driver's cursors, closed or not, that somebody has."""
        return [cursor for ref in list(self.cursors) if (cursor := ref()) is not None]

    @property
    def may_be_read(self) -> bool:
        """Whether somebody has a cursor that isn't known to be closed."""
        return bool(self.cursors) and not all(map(self.driver.is_closed, self.living_cursors()))

    @property
    def is_needed(self) -> bool:
        """Whether something other than a transaction or a changed session needs the connection."""
        return not self.by_transaction or self.pinned or bool(self.cursors)
