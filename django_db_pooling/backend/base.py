"""A wrapper as the holder of a lease: its state, and the steps from one state to another.

The other modules of ``backend/`` work on it; ``wrapper.py`` puts it before a backend's own class.
"""

from __future__ import annotations

import _thread
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from django_db_pooling.backend.lease import AWAITED, FREE, HELD, LOST, Lease, State
from django_db_pooling.database_pool import Identity
from django_db_pooling.pool.resting import Rest
from django_db_pooling.pool.slot import Slot
from django_db_pooling.process.deadline import MIN_SECONDS, Deadline

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    class Backend(BaseDatabaseWrapper):
        """What every backend's wrapper has, as far as it is used here and the stubs don't know it."""

        Database: Any
        _thread_ident: int
        _thread_sharing_count: int

        def is_in_memory_db(self) -> bool: ...
        def _cursor(self, name: str | None = None) -> Any: ...
        def _set_autocommit(self, autocommit: bool) -> None: ...

else:
    Backend = object

# An idle connection that doesn't answer within this time (seconds) is broken.
ANSWER_TIMEOUT = 5.0


class LeaseHolder(Backend):
    """There is a lease exactly in ``State.HELD``, and then its slot's connection is in ``connection``, but
    for the time in which that is opened.
    """

    _lease: Lease | None = None
    # The state while there is no lease.
    _vacant = FREE
    # That of the wrapper's settings, as far as it is known.
    _identity: Identity | None = None
    # A changed session that was left at rest: it is still this wrapper's, unless others needed its slot.
    _resting: Rest | None = None
    # During a checkout: by when it has to be done.
    _deadline: Deadline | None = None
    # How many of its own methods are on the stack: they need the connection to their end. They count with
    # `try` and `finally`: a signal's exception may strike a context manager's __exit__ before its first line.
    _depth = 0
    # What is known of the server, as far as this wrapper has been told.
    _learned: Mapping[str, Any] = MappingProxyType({})
    # When it was last found to have no attribute of other code's: how many it had, and the newest.
    _known_names: tuple[int, str] | None = None
    # Of ``execute_wrappers``, what belongs to the connection and leaves with it.
    _lent: tuple[Any, ...] = ()

    # The class that it would be without the pool.
    backend_class: type[Any]

    @property
    def plain(self) -> Any:
        """What this is without the pool: the methods of the backend's own class."""
        raise NotImplementedError

    # -- questions ----------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._vacant if self._lease is None else HELD

    @property
    def slot(self) -> Slot | None:
        """What is checked out."""
        return None if self._lease is None else self._lease.slot

    @property
    def is_shared(self) -> bool:
        """Whether several threads use this wrapper, as LiveServerTestCase does."""
        return bool(self._thread_sharing_count > 0)

    @property
    def is_awaited(self) -> bool:
        """Whether an atomic block was entered that begins with its first statement."""
        return self.state is AWAITED and self.in_atomic_block

    @property
    def holds(self) -> bool:
        """Whether its owner has something to give back: a connection, one that was lost or left at rest, or
        a block that waits for one. Not where several threads use this wrapper.
        """
        return not self._thread_sharing_count > 0 and (
            self._lease is not None
            or self._vacant is LOST
            or self._resting is not None
            or (self._vacant is AWAITED and self.in_atomic_block)
        )

    @property
    def is_here(self) -> bool:
        """Whether it belongs to this thread, or to another greenlet of this thread, which doesn't run now."""
        if self._thread_ident == _thread.get_ident():
            return True
        slot = self.slot
        return slot is not None and slot.hub is not None and slot.hub is slot.pool.driver.hub()

    @property
    def is_busy(self) -> bool:
        """Whether a block, a transaction, a statement or the reading of its rows may be going on."""
        lease = self._lease
        if lease is None or self._depth or self.in_atomic_block:
            return bool(self._depth or self.in_atomic_block)
        if lease.may_be_read:
            return True
        if lease.is_damaged():
            return False
        is_open = lease.in_transaction(self.autocommit)
        return lease.has_begun_by_text if is_open is None else is_open

    @property
    def claim(self) -> object:
        """What it holds something for: the same for as long as the block, or else the checkout, lasts.

        Refers to no slot: who compares claims must not keep one.
        """
        if self.in_atomic_block and self.atomic_blocks:
            return self.atomic_blocks[0]
        lease = self._lease
        return self._resting if lease is None else (lease.slot.number, lease.slot.taken_at)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is known to be open, however it was begun."""
        if self.in_atomic_block or self._lease is None:
            # When a block was lost, Django sets `connection` to None at the block's end.
            return self.in_atomic_block or (self._vacant is LOST and self.connection is not None)
        return self._lease.in_transaction(self.autocommit) is True

    def seconds_left(self, lease: Lease) -> float | None:
        """For a statement of our own; None: no limit."""
        if self._deadline is not None:
            return self._deadline.left()
        # At checkin nobody waits for this wrapper, but others may wait for its slot.
        timeout: float | None = lease.pool.limits.timeout
        return None if timeout is None else max(timeout, MIN_SECONDS)

    def seconds_to_ask(self, lease: Lease) -> float | None:
        """For a ping. At checkout half of the time is left for another connection, if this one is broken."""
        left = self.seconds_left(lease)
        if self._deadline is None:
            return left
        return ANSWER_TIMEOUT if left is None else min(left / 2, ANSWER_TIMEOUT)

    # -- from one state to another -----------------------------------------------------------------

    def adopt(self, lease: Lease) -> None:
        """What Django's connect() does besides connecting."""
        self.in_atomic_block = False
        if self.savepoint_ids or self.atomic_blocks:
            self.savepoint_ids, self.atomic_blocks = [], []
        self.needs_rollback = False
        self.health_check_enabled = self.settings_dict["CONN_HEALTH_CHECKS"]
        self.close_at = None
        self.closed_in_transaction = False
        self.errors_occurred = False
        self.health_check_done = True
        self.autocommit = self.settings_dict["AUTOCOMMIT"]
        if self.run_on_commit:
            self.run_on_commit = []
        if self._learned is not lease.identity.learned:
            self.learn(lease.identity.learned)
        slot = lease.slot
        if slot.execute_wrappers or self._lent:
            self.lend(slot.execute_wrappers)
        # Last: what interrupts this leaves nothing that is used half prepared.
        self._lease = lease
        self.connection = slot.connection

    def learn(self, learned: Mapping[str, Any]) -> None:
        """What is known of the server, but for what the user has set instead."""
        if learned:
            own = self.set_by_user(learned)
            self.__dict__.update(learned)
            self.__dict__.update(own, _learned=learned)

    def set_by_user(self, names: Iterable[str]) -> dict[str, Any]:
        """Those of these attributes that have other values than this wrapper has been told."""
        mine, told = self.__dict__, self._learned
        if not told and self._identity is not None:
            told = self._identity.initial
        return {
            name: mine[name]
            for name in names
            if name in mine and (mine[name] != told[name] if name in told else not told)
        }

    def end_lease(self) -> Lease:
        """The caller has to check its slot in, close or discard it."""
        lease = self._lease
        assert lease is not None
        if self._lent:
            self.take_back()
        if lease.changes_types:
            self.tell_of_types(lease)
        self._lease = None
        if not self.in_atomic_block:
            # Its frames refer to the slot, which then wouldn't be reclaimed if its next holder dropped it.
            self.rollback_exc = None
        return lease

    def discard(self) -> None:
        """Drop the connection, if there is one."""
        if self._lease is not None:
            lease = self.end_lease()
            lease.pool.give_up(lease.slot)
        self.connection = None

    def unset_connection(self) -> None:
        """Nothing is checked out any more. A block may go on: without transactions it needs no connection."""
        self.connection = None
        self._vacant = AWAITED if self.in_atomic_block else FREE

    def lose_block(self) -> None:
        """The connection of an atomic block is gone: do to the block what Django's ``close()`` does."""
        self.closed_in_transaction = True
        self.needs_rollback = True
        # Django's next connect() may run what is left here.
        self.run_on_commit = []
        self._vacant = LOST

    def tell_of_types(self, lease: Lease) -> None:
        """It has changed those of the database: connections from before don't know them. No I/O."""
        lease.changes_types = False
        lease.pool.replace_all()

    def lend(self, functions: tuple[Any, ...]) -> None:
        """Put these around the statements, each once: the wrapper may have one itself. Its own are inside."""
        self.take_back()
        own = self.execute_wrappers
        self._lent = tuple(function for function in functions if function not in own)
        own[:0] = self._lent

    def take_back(self) -> None:
        """What the connection has lent."""
        own = self.execute_wrappers
        for function in self._lent:
            if function in own:
                own.remove(function)
        self._lent = ()

    def clear_state(self) -> None:
        """No block and no transaction is left of the scope that is over."""
        self.connection = None
        self._vacant = FREE
        self.in_atomic_block = False
        self.needs_rollback = False
        self.closed_in_transaction = False
        self.rollback_exc = None
        self.savepoint_ids = []
        self.atomic_blocks = []
        self.run_on_commit = []

    def pin(self) -> None:
        """Keep the connection to the end of the request or scope."""
        lease = self._lease
        if lease is not None and not lease.pinned:
            lease.pinned = True
            lease.pool.counts.pins += 1
