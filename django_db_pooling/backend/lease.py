"""What all parts of the pooled wrapper share: the lease on a connection, and questions about that."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, cast

from django.db import Error as DjangoError

from django_db_pooling.log import redact
from django_db_pooling.pool.holders import request_label
from django_db_pooling.pool.slots import Rest, Slot
from django_db_pooling.process.deadline import MIN_SECONDS, Deadline

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from django_db_pooling.registry import DatabasePool

    class Backend(BaseDatabaseWrapper):
        """What every backend's wrapper has, as far as it is used here and the stubs don't know it."""

        Database: Any
        _thread_ident: int
        _thread_sharing_count: int

        def is_in_memory_db(self) -> bool: ...
        def _set_autocommit(self, autocommit: bool) -> None: ...
        def _close(self) -> None: ...
        def _cursor(self, name: str | None = None) -> Any: ...

else:
    Backend = object

# An idle connection that gives no answer for so long (seconds) is dead.
ANSWER_TIMEOUT = 5.0


class Leasing(Backend):
    """``_slot`` is the lease on what ``connection`` is: both are there, or neither, but for a
    connection that was lost in a transaction: its dead object stays, so that statements fail
    until the transaction has ended.
    """

    _slot: Slot | None = None
    # The one that serves these settings, as far as it is known yet.
    _pool: DatabasePool = cast("DatabasePool", None)
    _lost = False
    # What was let go with a changed session, and is still this one's unless somebody needed it.
    _resting: Rest | None = None
    # A transaction was open before the last statement, where the driver doesn't remember that.
    _was_in_transaction = False
    # It is one of set_autocommit(False), which has no end of its own.
    _manual = False
    # Cursors that may outlive the checkout.
    _cursors: set[weakref.ref[Any]]
    # An atomic block was entered without a connection.
    _deferred = False
    # It is kept to the end of the request or scope.
    _pinned = False
    # A statement has been executed since the checkout, and one that begins a transaction by its text.
    _executed = False
    _began_by_text = False
    # During a checkout: its end, and the parameters of connecting.
    _deadline: Deadline | None = None
    _params: dict[str, Any]

    def _find_pool(self) -> bool:
        """Whether there is one for what the settings say this instant: not all of them are pooled."""
        raise NotImplementedError

    def _give_back(self, may_rest: bool = False) -> None:
        """Make the connection clean (I/O where it isn't) and check it in, or close it.

        ``may_rest``: one with a changed session stays this one's until somebody needs it.
        """
        raise NotImplementedError

    def end_rest(self) -> None:
        """Give back what was left at rest (I/O)."""
        raise NotImplementedError

    def give_back(self) -> None:
        """End of the scope: nothing is left of it, whatever state the wrapper is in."""
        raise NotImplementedError

    @property
    def slot(self) -> Slot | None:
        """The lease on the connection that is checked out."""
        return self._slot

    @property
    def holds(self) -> bool:
        """Whether a connection is checked out, or was lost and its dead object is still here, or is to come
        for a block that was entered.
        """
        return self._slot is not None or self._lost or self._resting is not None or self.is_deferred

    @property
    def is_deferred(self) -> bool:
        """Whether an atomic block was entered that begins with its first statement."""
        return self._deferred and self.in_atomic_block

    @property
    def claim(self) -> object:
        """What it holds for: the same as long as it is the same block, or else the same checkout."""
        if self.in_atomic_block and self.atomic_blocks:
            return self.atomic_blocks[0]
        slot = self._slot
        return self._resting if slot is None else (slot, slot.taken_at)

    @property
    def is_shared(self) -> bool:
        """Whether several threads use this wrapper, as LiveServerTestCase does: its end isn't theirs."""
        return bool(self._thread_sharing_count > 0)

    def pin(self) -> None:
        """To the end of the request or scope."""
        if not self._pinned:
            self._pinned = True
            self._pool.counts.pins += 1

    def _unset_connection(self) -> None:
        """Nothing is checked out any more. A block that needs no connection of its own goes on."""
        self.connection = None
        self._deferred = self.in_atomic_block

    def _lose_block(self) -> None:
        """The connection of an atomic block is gone: what Django's ``close()`` says of that in a block."""
        self.closed_in_transaction = True
        self.needs_rollback = True
        # Django's next connect() may run what is left here.
        self.run_on_commit = []
        self._lost = True

    def _detach_slot(self) -> Slot:
        slot = self._slot
        assert slot is not None
        self._slot = None
        if not self.in_atomic_block:
            # Its frames refer to the slot, which couldn't be reclaimed should its next holder drop it.
            self.rollback_exc = None
        return slot

    def _seconds_left(self) -> float | None:
        """For talking to the server about something of our own; None: as long as it takes."""
        if self._deadline is not None:
            return self._deadline.left()
        # Giving back: nobody waits for this, but its slot is in our hands.
        timeout = self._pool.limits.timeout
        return None if timeout is None else max(timeout, MIN_SECONDS)

    def _seconds_to_ask(self) -> float | None:
        """For a connection that may be dead: in a checkout half of the time is for what comes after it."""
        left = self._seconds_left()
        return (
            left
            if self._deadline is None
            else min(ANSWER_TIMEOUT if left is None else left / 2, ANSWER_TIMEOUT)
        )

    def _is_clean(self, slot: Slot) -> bool:
        """Whether it is certain that there is nothing to clean."""
        return self.autocommit == self.settings_dict["AUTOCOMMIT"] and self._pool.dialect.is_clean(
            slot.connection
        )

    def _damaged(self, slot: Slot) -> bool:
        dialect = self._pool.dialect
        return dialect.broken(slot.connection) or dialect.unread(slot.connection)

    def _in_transaction(self, slot: Slot) -> bool | None:
        """None where nobody can know without asking."""
        if self.autocommit != self.settings_dict["AUTOCOMMIT"]:
            return True
        return self._pool.dialect.in_transaction(slot.connection)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is known to be open, however it was begun."""
        if self.in_atomic_block or self._slot is None:
            # Where a block was lost, Django's end of it sets `connection` to None.
            return self.in_atomic_block or (self._lost and self.connection is not None)
        return self._in_transaction(self._slot) is True

    def _roll_back(self, slot: Slot) -> bool:
        """End a transaction that its user left open: never by a commit. False if that fails."""
        journal = self._pool.journal
        # Where autocommit is off by the settings, each statement begins one.
        is_news = not self.in_atomic_block and self.settings_dict["AUTOCOMMIT"] and self._in_transaction(slot)
        try:
            self._pool.dialect.rollback(slot.connection, self._seconds_left())
            if self.autocommit != self.settings_dict["AUTOCOMMIT"]:
                self._set_autocommit(self.settings_dict["AUTOCOMMIT"])
        except (self.Database.Error, DjangoError, OSError) as error:
            journal.note("rollback_failed", error=redact(error))
            return False
        if is_news:
            journal.note("rolled_back", request=request_label(slot.holder))
        return True
