"""The lease: what a wrapper knows of its checked-out connection, and the questions about that.

The other modules of ``backend/`` build on this one.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, cast

from django_db_pooling.pool.resting import Rest
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.stats import Closed
from django_db_pooling.process.deadline import MIN_SECONDS, Deadline

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from django_db_pooling.backend.cursor import OpenCursor
    from django_db_pooling.database_pool import DatabasePool

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

# An idle connection that doesn't answer within this time (seconds) is broken.
ANSWER_TIMEOUT = 5.0


class Leasing(Backend):
    """``_slot`` and ``connection`` are there together, or both None. Two exceptions: while a connection is
    opened there is a slot only; and the object of one that was lost in a transaction stays in
    ``connection``, without a slot, so that statements fail until the transaction has ended.
    """

    _slot: Slot | None = None
    # The one for the wrapper's settings, as far as it is known.
    _pool: DatabasePool = cast("DatabasePool", None)
    # The second exception above.
    _lost = False
    # A changed session that was left at rest: it is still this wrapper's, unless others needed its slot.
    _resting: Rest | None = None
    # An atomic block was entered without a connection. It begins with its first statement.
    _deferred = False
    # How many of this wrapper's own methods are on the stack: they need the connection to their end.
    _depth = 0
    # During a checkout: until when, and the parameters of connecting.
    _deadline: Deadline | None = None
    _params: dict[str, Any]

    # Of one checkout:
    # It ends when no transaction, cursor or pin needs the connection.
    _transaction_scoped = False
    # It lasts to the end of the request or scope.
    _pinned = False
    # A statement has been executed, and one whose text begins a transaction.
    _executed = False
    _began_by_text = False
    # A transaction was open before the last statement, for drivers that don't remember that.
    _was_in_transaction = False
    # The transaction is one of set_autocommit(False), which has no end of its own.
    _manual = False
    # All cursors that still exist, and, in transaction scope, those that are open.
    _cursors: set[weakref.ref[Any]]
    _open_cursors: set[OpenCursor]

    @property
    def slot(self) -> Slot | None:
        """What is checked out."""
        return self._slot

    @property
    def holds(self) -> bool:
        """Whether its owner has something to give back: a connection, one that was lost or left at rest, or
        a block that waits for one. Not where several threads use this wrapper.
        """
        return not self._thread_sharing_count > 0 and (
            self._slot is not None
            or self._lost
            or self._resting is not None
            or (self._deferred and self.in_atomic_block)
        )

    @property
    def is_deferred(self) -> bool:
        """Whether an atomic block was entered that begins with its first statement."""
        return self._deferred and self.in_atomic_block

    @property
    def claim(self) -> object:
        """What it holds something for: equal as long as it is the same block, or else the same checkout."""
        if self.in_atomic_block and self.atomic_blocks:
            return self.atomic_blocks[0]
        slot = self._slot
        return self._resting if slot is None else (slot, slot.taken_at)

    @property
    def is_shared(self) -> bool:
        """Whether several threads use this wrapper, as LiveServerTestCase does."""
        return bool(self._thread_sharing_count > 0)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is known to be open, however it was begun."""
        if self.in_atomic_block or self._slot is None:
            # When a block was lost, Django sets `connection` to None at the block's end.
            return self.in_atomic_block or (self._lost and self.connection is not None)
        return self._in_transaction(self._slot) is True

    def pin(self) -> None:
        """Keep the connection to the end of the request or scope."""
        if not self._pinned:
            self._pinned = True
            self._pool.counts.pins += 1

    # -- taking up and letting go ---------------------------------------------------------------

    def _adopt(self, slot: Slot) -> None:
        """What Django's connect() does besides connecting."""
        self.connection = slot.connection
        self.in_atomic_block = False
        self.savepoint_ids = []
        self.atomic_blocks = []
        self.needs_rollback = False
        self.health_check_enabled = self.settings_dict["CONN_HEALTH_CHECKS"]
        self.close_at = None
        self.closed_in_transaction = False
        self.errors_occurred = False
        self.health_check_done = True
        self.autocommit = self.settings_dict["AUTOCOMMIT"]
        self.run_on_commit = []
        self.__dict__.update(self._pool.learned)

    def _resume(self) -> bool:
        """Take up what was left at rest. False: others needed it, or it can't be used any more."""
        rest, self._resting = self._resting, None
        assert rest is not None
        slot = rest.pool.resume(rest)
        if slot is None:
            return False
        pool = slot.pool
        try:
            alive = pool.driver.alive(slot.connection)
        except BaseException:
            # As Health.fit() does: the error's frames have the slot.
            pool.discard(slot)
            raise
        if pool is not self._pool or alive is False:
            pool.discard(slot, Closed.RECYCLED if alive else Closed.BROKEN)
            return False
        if alive is None:
            pool.suspect(slot)
        self._slot = slot
        self._cursors = set()
        self._adopt(slot)
        return True

    def _detach_slot(self) -> Slot:
        """The slot, which the caller has to check in, close or discard."""
        slot = self._slot
        assert slot is not None
        self._slot = None
        if not self.in_atomic_block:
            # Its frames refer to the slot, which then wouldn't be reclaimed if its next holder dropped it.
            self.rollback_exc = None
        return slot

    def _unset_connection(self) -> None:
        """Nothing is checked out any more. A block may go on: without transactions it needs no connection."""
        self.connection = None
        self._deferred = self.in_atomic_block

    def _lose_block(self) -> None:
        """The connection of an atomic block is gone: do to the block what Django's ``close()`` does."""
        self.closed_in_transaction = True
        self.needs_rollback = True
        # Django's next connect() may run what is left here.
        self.run_on_commit = []
        self._lost = True

    # -- questions --------------------------------------------------------------------------------

    def _seconds_left(self) -> float | None:
        """For a statement of our own; None: no limit."""
        if self._deadline is not None:
            return self._deadline.left()
        # At checkin nobody waits for this wrapper, but others may wait for its slot.
        timeout = self._pool.limits.timeout
        return None if timeout is None else max(timeout, MIN_SECONDS)

    def _seconds_to_ask(self) -> float | None:
        """For a ping. At checkout half of the time is left for another connection, if this one is broken."""
        left = self._seconds_left()
        if self._deadline is None:
            return left
        return ANSWER_TIMEOUT if left is None else min(left / 2, ANSWER_TIMEOUT)

    def _is_clean(self, slot: Slot) -> bool:
        """Whether there is certainly nothing to roll back or to read."""
        return self.autocommit == self.settings_dict["AUTOCOMMIT"] and self._pool.driver.is_clean(
            slot.connection
        )

    def _is_broken(self, slot: Slot) -> bool:
        driver = self._pool.driver
        return driver.broken(slot.connection) or driver.unread(slot.connection)

    def _in_transaction(self, slot: Slot) -> bool | None:
        """None where only the server knows."""
        if self.autocommit != self.settings_dict["AUTOCOMMIT"]:
            return True
        return self._pool.driver.in_transaction(slot.connection)
