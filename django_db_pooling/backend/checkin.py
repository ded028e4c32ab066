"""The state of a session: noticed when a statement changes it, undone before somebody else has it."""

from __future__ import annotations

from collections import deque
from typing import Any

from django.db import Error as DjangoError
from django.db import OperationalError
from django.db.backends.signals import connection_created

from django_db_pooling.backend.lease import Leasing
from django_db_pooling.backend.statements import traits
from django_db_pooling.log import redact
from django_db_pooling.pool.slots import Slot
from django_db_pooling.signals import connection_checked_out


class Checkin(Leasing):
    """Hands sessions on as they were when their connection was opened."""

    def executed(self, sql: Any) -> None:
        """Called by cursors after each statement: notes whether it has changed the session."""
        self._executed = True
        slot = self._slot
        if slot is None or not slot.opened_at:
            return
        seen, dialect = traits(self.vendor, sql), self._pool.dialect
        if seen.begins:
            self._began_by_text = True
        if seen.locks:
            slot.locks = max(0, slot.locks + seen.locks)
        if self._pool.reset_mode != "never" and not slot.beyond_reset:
            slot.beyond_reset = seen.lasts
            # The server sees more, but no locks.
            slot.dirty = (
                slot.dirty
                or seen.changes
                or (dialect.reports_session_changes and dialect.session_changed(slot.connection))
            )

    def pin_session(self) -> None:
        """Keep this connection, and make its session as new before somebody else has it."""
        self.ensure_connection()
        if self._slot is not None:
            self._slot.dirty = True
            self.pin()

    def _send_checked_out(self) -> None:
        slot = self._slot
        assert slot is not None
        before = slot.dirty, slot.beyond_reset, slot.locks
        connection_checked_out.send(sender=self.__class__, connection=self)
        if self._slot is not slot:
            raise OperationalError(f"{self.alias}: closed or lost by a receiver of connection_checked_out")
        # The next checkout overwrites what they have set.
        slot.dirty, slot.beyond_reset, slot.locks = before
        self._executed = False

    def _must_reset(self, slot: Slot) -> bool:
        return slot.dirty or self._pool.reset_mode == "always"

    def _reset_session(self, slot: Slot) -> bool:
        """Make the session as new (I/O), outside of a transaction. False if that can't be done."""
        self.in_atomic_block = self.needs_rollback = False
        # Nobody's query count and nobody's wrappers of execute() are concerned.
        theirs = self.queries_log, self.execute_wrappers
        self.queries_log, self.execute_wrappers = deque(maxlen=1), []
        try:
            if slot.beyond_reset or not self._pool.dialect.reset(slot.connection, self._seconds_left()):
                return False
            self._set_autocommit(self.settings_dict["AUTOCOMMIT"])
            self.init_connection_state()
            connection_created.send(sender=self.__class__, connection=self)
        except (self.Database.Error, DjangoError, OSError) as error:
            self._pool.journal.note("reset_failed", error=redact(error))
            return False
        finally:
            self.queries_log, self.execute_wrappers = theirs
        slot.dirty = False
        slot.locks = 0
        self._pool.counts.resets += 1
        return not self._pool.dialect.broken(slot.connection)
