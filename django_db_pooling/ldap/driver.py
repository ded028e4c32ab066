"""python-ldap: no transactions, sessions bound to a name, and connecting in C."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import ldap

from django_db_pooling.drivers.base import Driver
from django_db_pooling.ldap.attempt import Attempt, Late
from django_db_pooling.ldap.connecting import close
from django_db_pooling.pool.slots import Slot


class LDAP(Driver):
    learned = ("page_size",)
    remembers_transaction = True
    has_transactions = False
    scope = "transaction"

    def affinity(self) -> object:
        # libldap's locks are native ones, and what is waited for is only a descriptor.
        return None

    def fileno(self, connection: Any) -> int | None:
        descriptor: int | None = connection.descriptor
        return descriptor

    def open(self, slot: Slot, make: Callable[[], Any], seconds: float | None) -> None:
        attempt = slot.attempt = Attempt(partial(_put, slot, make), self.wakeup())
        try:
            attempt.wait(seconds)
        except Late as late:
            raise ldap.TIMEOUT({"desc": "Timed out", "info": f"connecting is {late}"}) from None
        slot.attempt = None

    def disconnect(self, connection: Any) -> None:
        close(connection)

    def alive(self, connection: Any) -> bool | None:
        # Whatever comes unasked says that the server is about to go.
        return super().alive(connection) is True

    def broken(self, connection: Any) -> bool:
        return connection.is_dead or connection.descriptor is None

    def unread(self, connection: Any) -> bool:
        """Whether an answer is still to come, or it isn't for everybody any more."""
        return bool(connection.pending) or connection.is_changed

    def in_transaction(self, connection: Any) -> bool:
        return False

    def is_clean(self, connection: Any) -> bool:
        return super().is_clean(connection) and connection.is_as_opened

    def rollback(self, connection: Any, seconds: float | None) -> None:
        """A directory has no transactions. What else may be as its user left it are options."""
        connection.restore()

    def usable(self, connection: Any, ask: Callable[[], bool], seconds: float | None) -> bool:
        return bool(connection.is_usable(seconds))

    def server_away(self, error: BaseException) -> bool:
        # One that was late may still be at it.
        return isinstance(error, ldap.SERVER_DOWN | ldap.CONNECT_ERROR | ldap.UNAVAILABLE | ldap.BUSY)

    def detach_cursor(self, cursor: Any) -> bool:
        cursor.connection = None
        return True

    def adapt(self, params: dict[str, Any], seconds: float | None) -> None:
        params["seconds"] = seconds


def _put(slot: Slot, make: Callable[[], Any]) -> None:
    slot.connection = make()


DRIVER = LDAP()
