"""Checkout: from a slot to a usable connection, where Django would open one."""

from __future__ import annotations

import copy
import sys
import time
import traceback
from functools import partial
from typing import Any

from django.db import Error as DjangoError
from django.db import OperationalError, connections
from django.db.backends.base.base import NO_DB_ALIAS

from django_db_pooling import conf, drivers, owner
from django_db_pooling.backend.checkin import Checkin
from django_db_pooling.database_pool import DatabasePool
from django_db_pooling.drivers.base import Driver
from django_db_pooling.drivers.sockets import keep_alive
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.log import redact
from django_db_pooling.pool.holders import Holding
from django_db_pooling.pool.queue import CheckoutTimeout, ServerAway
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.stats import Closed
from django_db_pooling.process import upkeep
from django_db_pooling.process.deadline import MIN_SECONDS, Deadline
from django_db_pooling.registry import registry
from django_db_pooling.signals import connection_checked_out

# A connection that has been idle for longer (seconds) gets a ping before it is used.
LONG_IDLE = 60.0
# For opening one of MIN_SIZE: the housekeeper has other things to do meanwhile (seconds).
MAX_FILL = 5.0


class Checkout(Checkin):
    """Checks connections out, and opens those that a slot lacks."""

    def connect(self) -> None:
        """Check a connection out. Raises PoolTimeout, or what Django raises when connecting fails."""
        self._lost = self._manual = False
        if self._slot is not None:
            # Other code has set `connection` to None, without close().
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
            self._begin_lease(mine.scope(self._pool.scope))
            if connection_checked_out.receivers:
                self._send_checked_out()
        except BaseException as error:
            if self._slot is not None:
                self._pool.discard(self._detach_slot())
            self.connection = None
            if isinstance(error, Exception):
                # The housekeeper writes the log, and may not run while the pool has no connection.
                upkeep.ensure_running()
            if isinstance(error, CheckoutTimeout):
                raise PoolTimeout(str(error), error.waited) from None
            if isinstance(error, ServerAway):
                raise copy_of_error(error.error, str(error)) from None
            raise
        finally:
            self._deadline = outer
            # The traceback of a driver's error refers to this frame, and must not keep the owner alive.
            del mine

    def _find_pool(self) -> bool:
        """Find the pool for the settings of this moment. False: by these the wrapper isn't pooled."""
        pool = self._pool
        if pool is None or pool.closing or not pool.serves(self):
            driver = self._pooling_driver()
            if driver is None:
                return False
            self.check_settings()
            self._pool = registry.pool_for(self, driver)
        return True

    def _pooling_driver(self) -> Driver | None:
        """None where this wrapper isn't pooled."""
        if self.alias == NO_DB_ALIAS or conf.is_off(self.settings_dict):
            return None
        if self.vendor == "sqlite" and self.is_in_memory_db():
            return None
        return drivers.find(self.Database)

    def _resume_session(self, mine: owner.Owner) -> bool:
        """Take up the session that was left at rest. A unit of work doesn't: it begins with a clean one."""
        if not mine.may_rest:
            self.end_rest()
            return False
        if not (self._resume() and (self._make_usable() or self._discard_broken())):
            self._pool.journal.note("session_ended", holder=redact(mine.holder))
            return False
        self._begin_lease(mine.scope(self._pool.scope))
        # A statement may ask for what the session's last one has left: that was this wrapper's.
        self._executed = True
        return True

    def _check_out_another(self, deadline: Deadline, holder: object, counted: bool) -> None:
        """Try until the deadline."""
        while True:
            if deadline.is_over:
                seconds = time.monotonic() - deadline.began
                why = f"all connections tried in {seconds:.1f} s were unusable"
                raise self._pool.queue.refusal(seconds, why, counted)
            self._pool = registry.pool_for(self, self._pool.driver)
            if self._check_out(deadline, holder, counted):
                return

    def _check_out(self, deadline: Deadline, holder: object, counted: bool) -> bool:
        """Try once. False: what came couldn't be used, and its slot is given up."""
        pool = self._pool
        if pool.backend_remembers:
            # The backend's close() forgets what it knew of the last session. There is nothing to close.
            self.connection = None
            super().close()
        queued = pool.counts.queued
        self._slot = slot = pool.checkout(deadline.until, holder, deadline.began, None, counted)
        # If somebody has queued meanwhile, it may have been this caller, and the settings may have changed.
        if pool.counts.queued != queued and not pool.serves(self):
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

    def _make_usable(self) -> bool:
        """Roll back and ping where it is necessary (I/O). False: the connection is broken."""
        slot = self._slot
        assert slot is not None
        if slot.maybe_in_transaction:
            slot.maybe_in_transaction = False
            if not self._roll_back(slot):
                return False
        must_ping = (
            self.health_check_enabled
            or self._pool.is_suspect(slot)
            or slot.taken_at - slot.returned_at > LONG_IDLE
        )
        return not must_ping or self.is_usable()

    def _discard_broken(self) -> bool:
        """An idle connection was broken. Returns False."""
        self._pool.found_broken()
        self._pool.discard(self._detach_slot(), Closed.BROKEN)
        self.connection = None
        return False

    def _begin_lease(self, scope: str) -> None:
        """A connection is there. ``scope``: the one that applies at this moment."""
        # A block's scope is the one in which it was entered.
        self._transaction_scoped = self._deferred or scope == conf.TRANSACTION
        self._pinned = self._executed = self._began_by_text = False
        self._open_cursors = set()

    def _send_checked_out(self) -> None:
        slot = self._slot
        assert slot is not None
        before = slot.dirty, slot.beyond_reset, slot.locks
        connection_checked_out.send(sender=self.__class__, connection=self)
        if self._slot is not slot:
            raise OperationalError(f"{self.alias}: closed or lost by a receiver of connection_checked_out")
        # The receivers overwrite at the next checkout what they have set now.
        slot.dirty, slot.beyond_reset, slot.locks = before
        self._executed = False

    # -- opening --------------------------------------------------------------------------------

    def _open_patiently(self, slot: Slot) -> bool:
        """Open, for CONNECT_RETRY seconds while the server is away. False: queue up again instead."""
        pool = self._pool
        while True:
            began = time.monotonic()
            try:
                self._open(slot)
                return True
            except Exception as error:
                pause = None
                if pool.driver.server_away(error.__cause__ or error):
                    until = None if self._deadline is None else self._deadline.until
                    pause = pool.retry_in(copy_of_error(error), began, until)
                if pause is None:
                    self._give_up(slot, error)
                    raise
                # Drivers leave reference cycles in the frames of a connect() that failed.
                traceback.clear_frames(error.__traceback__)
            self._undo(slot)
            if not pause:
                pool.discard(self._detach_slot())
                return False
            time.sleep(pause)

    def _open(self, slot: Slot) -> None:
        """Try once."""
        pool = self._pool
        self.__dict__.update(pool.learned)
        super().connect()
        if self._slot is not slot or pool.driver.broken(slot.connection):
            raise OperationalError(f"{self.alias}: closed or lost by a receiver of connection_created")
        fd, idle = pool.driver.fileno(slot.connection), pool.limits.keepalive
        if fd is not None and idle is not None:
            keep_alive(fd, idle, self._params)
        pool.driver.connected(slot.connection, self._params)
        pool.learn(self)
        # The settings may have changed while this connected.
        slot.broken = not pool.serves(self)
        pool.opened(slot)
        upkeep.ensure_running()

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Called by Django's connect()."""
        slot = self._slot
        if slot is None or slot.connection is not None:
            return super().get_new_connection(conn_params)
        self._params = conn_params
        adapted = conn_params.copy()
        seconds = self._seconds_to_connect()
        self._pool.driver.adapt(adapted, seconds)
        self._pool.driver.open(slot, partial(super().get_new_connection, adapted), seconds)
        return slot.connection

    def _seconds_to_connect(self) -> float | None:
        seconds = self._seconds_left()
        if not self._pool.growth.outage:
            return seconds
        # The others are turned away until this attempt ends.
        most = max(self._pool.limits.connect_retry, MIN_SECONDS)
        return most if seconds is None else min(seconds, most)

    def _give_up(self, slot: Slot, error: BaseException) -> None:
        """Free a slot that got no connection. Only the driver's errors say something of the server."""
        self._slot = None
        cause = error.__cause__ if isinstance(error, DjangoError) else error
        if isinstance(error, Exception) and isinstance(cause, (self.Database.Error, OSError)):
            self._pool.open_failed(slot, copy_of_error(error))
        else:
            self._pool.discard(slot)

    def _undo(self, slot: Slot) -> None:
        """What an attempt that failed may have left."""
        self.connection, connection, slot.connection = None, slot.connection, None
        if connection is not None:
            self._pool.driver.drop(connection)

    def fill(self, pool: DatabasePool, slot: Slot) -> None:
        """Open a connection for a bare slot and check it in: the housekeeper's, for MIN_SIZE."""
        self._pool = pool
        self._cursors = set()
        self._slot = slot
        self._deadline = Deadline(min(pool.limits.timeout or MAX_FILL, MAX_FILL))
        # Receivers of connection_created that ask for connections[alias] mean this one.
        connections[self.alias] = self
        try:
            self._open(slot)
        except BaseException as error:
            self._give_up(slot, error)
            raise
        finally:
            del connections[self.alias]
        self.give_back()


def copy_of_error(error: Exception, note: str | None = None) -> Exception:
    """To raise or store it without the traceback, and so the frames, of its first raise."""
    try:
        made = copy.copy(error)
    except Exception:
        made = OperationalError(str(error))
    made.__traceback__ = None
    if note is not None:
        made.add_note(note)
    return made
