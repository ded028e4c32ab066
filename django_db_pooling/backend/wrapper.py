"""The project's own DatabaseWrapper, made to borrow its physical connection from a pool.

``pooled(cls)`` makes the subclass. It takes a connection where Django would open one, in
``connect()``, and gives it back where Django would close it, and at the end of its owner.
"""

from __future__ import annotations

import functools
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db.backends.base.base import NO_DB_ALIAS

from django_db_pooling import conf, drivers, owner
from django_db_pooling.backend.checkin import Checkin
from django_db_pooling.backend.checkout import Checkout, copy_of_error
from django_db_pooling.backend.cursor import PooledCursor
from django_db_pooling.backend.errors import BrokenConnections
from django_db_pooling.backend.mixing import mixed
from django_db_pooling.backend.parts import Parts
from django_db_pooling.backend.transactions import Transactions
from django_db_pooling.drivers.base import Driver
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.log import redact
from django_db_pooling.pool.holders import Holding, request_label
from django_db_pooling.pool.pool import CheckoutTimeout, ServerAway
from django_db_pooling.pool.slots import Slot
from django_db_pooling.pool.stats import Closed
from django_db_pooling.process import fork
from django_db_pooling.process.deadline import Deadline
from django_db_pooling.registry import registry
from django_db_pooling.signals import connection_checked_out

# A connection that has been idle for longer (seconds) is asked before it is used.
LONG_IDLE = 60.0


class Pooling(Parts, Checkout, Checkin, BrokenConnections):
    """Takes connections out of a pool and gives them back."""

    # -- taking -----------------------------------------------------------------------------

    def connect(self) -> None:
        """Check a connection out. Raises PoolTimeout, or what Django raises when connecting fails."""
        self._lost = self._manual = False
        if self._slot is not None:
            # Somebody has set `connection` to None.
            self._pool.discard(self._detach_slot())
        if not self._find_pool():
            super().connect()
            return
        mine = owner.current()
        timeout, max_wait = self._pool.limits.timeout, mine.max_wait
        if max_wait is not None and (timeout is None or timeout > max_wait):
            timeout = max_wait
        outer = self._deadline
        deadline = self._deadline = outer or Deadline(timeout)
        holder: object = mine.holder
        if self._pool.limits.leak_threshold is not None:
            holder = Holding(holder, sys._getframe())
        try:
            if self._resting is not None and self._resume_session(mine):
                return
            self._cursors = set()
            if not self._check_out(deadline, holder, max_wait is None):
                self._check_out_another(deadline, holder, max_wait is None)
            mine.add(self)
            self.checked_out(mine.scope(self._pool.scope))
            if connection_checked_out.receivers:
                self._send_checked_out()
        except BaseException as error:
            if self._slot is not None:
                self._pool.discard(self._detach_slot())
            self.connection = None
            if isinstance(error, Exception):
                # Somebody must tell of it, also where there is no connection yet.
                registry.ensure_looked_after()
            if isinstance(error, CheckoutTimeout):
                raise PoolTimeout(str(error), error.waited) from None
            if isinstance(error, ServerAway):
                raise copy_of_error(error.error, str(error)) from None
            raise
        finally:
            self._deadline = outer
            # A frame may outlive its thread, in the traceback of a driver's error. The owner must not.
            del mine

    def checked_out(self, scope: str) -> None:
        """A connection is there. ``scope``: the one that applies at this moment."""
        raise NotImplementedError

    def _find_pool(self) -> bool:
        pool = self._pool
        if pool is None or pool.closing or not pool.serves(self):
            driver = self._pooling_driver()
            if driver is None:
                return False
            self.check_settings()
            self._pool = registry.pool_for(self, driver)
        return True

    def _check_out_another(self, deadline: Deadline, holder: object, counted: bool) -> None:
        """One try after the other, until the time is up."""
        while True:
            if deadline.is_over:
                seconds = time.monotonic() - deadline.began
                why = f"{seconds:.1f} s went by with connections that were of no use"
                raise self._pool.refusal(seconds, why, counted)
            self._pool = registry.pool_for(self, self._pool.dialect)
            if self._check_out(deadline, holder, counted):
                return

    def _check_out(self, deadline: Deadline, holder: object, counted: bool) -> bool:
        """One try. False: what came was of no use and is gone."""
        pool = self._pool
        if pool.backend_remembers:
            # Another session than the last one, and nothing to close.
            self.connection = None
            super().close()
        queued = pool.counts.queued
        self._slot = slot = pool.checkout(deadline.until, holder, deadline.began, None, counted)
        if pool.counts.queued != queued and not pool.serves(self):
            # The settings have changed while this waited.
            pool.checkin(self._detach_slot())
            return False
        if slot.connection is None:
            return self._open_patiently(slot)
        self._adopt(slot)
        if slot.dirty and not self._reset_session(slot):
            if self._slot is not None:
                pool.close(self._detach_slot())
            self.connection = None
            return False
        return self._make_usable() or self._discard_broken()

    def __copy__(self) -> Pooling:
        """A shallow copy, as Django's own tests make, has no part in the lease."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        copied.__dict__.pop("wrap_database_errors", None)
        if self._slot is not None:
            copied._slot = copied.connection = None
            copied._cursors = set()
        copied._resting = None
        return copied

    def _pooling_driver(self) -> Driver | None:
        """None where this wrapper isn't pooled."""
        if self.alias == NO_DB_ALIAS or conf.is_off(self.settings_dict):
            return None
        if self.vendor == "sqlite" and self.is_in_memory_db():
            return None
        return drivers.find(self.Database)

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

    def _make_usable(self) -> bool:
        """Whether what was idle can be used (I/O where only the server can tell)."""
        slot = self._slot
        assert slot is not None
        if slot.maybe_in_transaction:
            slot.maybe_in_transaction = False
            if not self._roll_back(slot):
                return False
        must_ask = (
            self.health_check_enabled
            or self._pool.is_suspect(slot)
            or slot.taken_at - slot.returned_at > LONG_IDLE
        )
        return not must_ask or self.is_usable()

    def create_cursor(self, name: str | None = None) -> Any:
        cursor = super().create_cursor(name)
        if self._slot is not None:
            self._cursors.add(weakref.ref(cursor, self._cursors.discard))
        return cursor

    def make_cursor(self, cursor: Any) -> Any:
        made = super().make_cursor(cursor)
        made.__class__ = mixed(PooledCursor, type(made))
        return made

    def make_debug_cursor(self, cursor: Any) -> Any:
        made = super().make_debug_cursor(cursor)
        made.__class__ = mixed(PooledCursor, type(made))
        return made

    # -- giving back --------------------------------------------------------------------------

    def _close(self) -> None:
        """Called by Django's close(), which sets ``connection`` to None or notes the transaction."""
        if self._slot is None:
            if not self._lost:
                super()._close()
        elif self.in_atomic_block and self._pool.dialect.has_transactions:
            self._pool.close(self._detach_slot())
            self._lost = True
        else:
            try:
                self._give_back()
            finally:
                # As close() will: what was given back is somebody else's.
                self._unset_connection()

    def close_if_unusable_or_obsolete(self) -> None:
        """Called by Django when a request starts and ends: a connection's scope is over."""
        if not fork.noticed[0]:
            fork.notice()
        if self._resting is not None:
            self.end_rest()
        if self.connection is None:
            return
        if self.in_atomic_block or self._thread_sharing_count > 0 or not self.holds:
            super().close_if_unusable_or_obsolete()
        else:
            self.give_back()

    def give_back(self) -> None:
        """End of the scope: nothing is left of it, whatever state the wrapper is in."""
        if self.in_atomic_block:
            self._pool.journal.note("atomic_left_open", request=request_label(owner.current().holder))
        try:
            if self._resting is not None:
                self._resume()
            if self._slot is not None:
                self._give_back()
        finally:
            self._clear_state()

    def _clear_state(self) -> None:
        self.connection = None
        self._lost = False
        self.in_atomic_block = False
        self.closed_in_transaction = False
        self.rollback_exc = None
        self.savepoint_ids = []
        self.atomic_blocks = []
        self.run_on_commit = []

    def _give_back(self, may_rest: bool = False) -> None:
        slot = self._detach_slot()
        try:
            rests = may_rest and slot.dirty and self._may_be_reused(slot)
            clean = not rests and (
                self._may_be_reused(slot)
                and (self._is_clean(slot) or (not self._damaged(slot) and self._roll_back(slot)))
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

    def abandon(self) -> None:
        """The owner has ended: give back what is clean, drop the rest. No I/O, as in finalizers."""
        if self._resting is not None and not self.is_shared:
            self._resume()
        if self._slot is None or self.is_shared:
            return
        slot = self._detach_slot()
        if self._may_be_reused(slot) and (
            self._is_clean(slot) or (not self._damaged(slot) and self._in_transaction(slot) is None)
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
            if self.in_atomic_block and self._pool.dialect.has_transactions:
                self._lose_block()
            else:
                self._unset_connection()

    # -- between the statements of a changed session ------------------------------------------------

    def _resume_session(self, mine: owner.Owner) -> bool:
        """Whether the session that was left at rest does: a unit of work begins with one of its own."""
        if not mine.may_rest:
            self.end_rest()
            return False
        if not (self._resume() and (self._make_usable() or self._discard_broken())):
            self._pool.journal.note("session_ended", holder=redact(mine.holder))
            return False
        self.checked_out(mine.scope(self._pool.scope))
        # What its last statement has left is there, too.
        self._executed = True
        return True

    def _resume(self) -> bool:
        """Take up what was left at rest. False: somebody else needed it, or it is of no use any more."""
        rest, self._resting = self._resting, None
        assert rest is not None
        slot = rest.pool.resume(rest)
        if slot is None:
            return False
        pool = slot.pool
        alive = pool.driver.alive(slot.connection)
        if pool is not self._pool or alive is False:
            pool.discard(slot, Closed.RECYCLED if alive else Closed.BROKEN)
            return False
        if alive is None:
            pool.suspect(slot)
        self._slot = slot
        self._cursors = set()
        self._adopt(slot)
        return True

    def _discard_broken(self) -> bool:
        """What was idle is of no use. Returns False."""
        self._pool.found_broken()
        self._pool.discard(self._detach_slot(), Closed.BROKEN)
        self.connection = None
        return False

    def end_rest(self) -> None:
        """Give back what was left at rest (I/O)."""
        if self._resume():
            try:
                self._give_back()
            finally:
                self._unset_connection()

    def _may_be_reused(self, slot: Slot) -> bool:
        pool = self._pool
        if slot.broken or not pool.wants(slot) or not pool.serves(self):
            return False
        if self._cursors and (self._damaged(slot) or not self._detach_cursors()):
            return False
        if self.errors_occurred:
            # Django would ask the server here. The next taker does.
            pool.suspect(slot)
        return True

    def _detach_cursors(self) -> bool:
        for ref in list(self._cursors):
            cursor = ref()
            if cursor is not None and not self._pool.dialect.detach_cursor(cursor):
                return False
        return True

    # -- Django's other uses --------------------------------------------------------------------

    @contextmanager
    def _nodb_cursor(self) -> Iterator[Any]:
        # For creating and dropping databases, which idle connections would stand in the way of.
        for pool in registry.pools():
            pool.drain()
        with super()._nodb_cursor() as cursor:
            yield cursor


class PooledWrapper(Transactions, Pooling):
    """Mixed in before a backend's DatabaseWrapper."""


@functools.cache
def pooled(cls: type[Any]) -> type[Any]:
    """The pooled subclass of a backend's DatabaseWrapper, which goes by the same name.

    The class itself where it has no driver that can be pooled.
    """
    driver = drivers.find(getattr(cls, "Database", None))
    if driver is None or issubclass(cls, PooledWrapper):
        return cls
    for mixin in reversed(driver.mixins):
        cls = mixed(mixin, cls)
    return mixed(PooledWrapper, cls)
