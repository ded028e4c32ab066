"""Opening a physical connection for a slot, and trying again while the server is away."""

from __future__ import annotations

import copy
import time
import traceback
from functools import partial
from typing import Any

from django.db import Error as DjangoError
from django.db import OperationalError, connections

from django_db_pooling.backend.lease import Leasing
from django_db_pooling.drivers.sockets import keep_alive
from django_db_pooling.pool.slots import Slot
from django_db_pooling.process.deadline import MIN_SECONDS, Deadline
from django_db_pooling.registry import DatabasePool, registry

# The housekeeper has other things to do meanwhile (seconds).
MAX_FILL = 5.0


class Checkout(Leasing):
    """Puts connections into bare slots."""

    def _open_patiently(self, slot: Slot) -> bool:
        """Open, for CONNECT_RETRY seconds while nobody is there. False: queue up again instead."""
        pool = self._pool
        while True:
            began = time.monotonic()
            try:
                self._open(slot)
                return True
            except Exception as error:
                pause = None
                if pool.dialect.server_away(error.__cause__ or error):
                    until = None if self._deadline is None else self._deadline.until
                    pause = pool.retry_in(copy_of_error(error), began, until)
                if pause is None:
                    self._give_up(slot, error)
                    raise
                # Drivers leave reference cycles in the frames of connects that failed.
                traceback.clear_frames(error.__traceback__)
            self._undo(slot)
            if not pause:
                pool.discard(self._detach_slot())
                return False
            time.sleep(pause)

    def _give_up(self, slot: Slot, error: BaseException) -> None:
        """Free a slot without a connection. What isn't the driver's error says nothing of the server."""
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
            self._pool.dialect.drop(connection)

    def _open(self, slot: Slot) -> None:
        """One attempt."""
        pool = self._pool
        self.__dict__.update(pool.learned)
        super().connect()
        if self._slot is not slot or pool.dialect.broken(slot.connection):
            raise OperationalError(f"{self.alias}: closed or lost by a receiver of connection_created")
        fd, idle = pool.dialect.fileno(slot.connection), pool.limits.keepalive
        if fd is not None and idle is not None:
            keep_alive(fd, idle, self._params)
        pool.dialect.connected(slot.connection, self._params)
        pool.learn(self)
        # The settings may have changed while this connected.
        slot.broken = not pool.serves(self)
        pool.opened(slot)
        registry.ensure_looked_after()

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        slot = self._slot
        if slot is None or slot.connection is not None:
            return super().get_new_connection(conn_params)
        self._params = conn_params
        adapted = conn_params.copy()
        seconds = self._seconds_to_connect()
        self._pool.dialect.adapt(adapted, seconds)
        self._pool.dialect.open(slot, partial(super().get_new_connection, adapted), seconds)
        return slot.connection

    def _seconds_to_connect(self) -> float | None:
        seconds = self._seconds_left()
        if not self._pool.growth.outage:
            return seconds
        # The others are turned away until this attempt ends.
        most = max(self._pool.limits.connect_retry, MIN_SECONDS)
        return most if seconds is None else min(seconds, most)

    def fill(self, pool: DatabasePool, slot: Slot) -> None:
        """Open a connection for a bare slot and check it in: the housekeeper's, for MIN_SIZE."""
        self._pool = pool
        self._cursors = set()
        self._slot = slot
        self._deadline = Deadline(min(pool.limits.timeout or MAX_FILL, MAX_FILL))
        # Receivers of connection_created ask for connections[alias] and mean this one.
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
    """The same error once more, without the traceback of the call in which it was raised first."""
    try:
        made = copy.copy(error)
    except Exception:
        made = OperationalError(str(error))
    made.__traceback__ = None
    if note is not None:
        made.add_note(note)
    return made
