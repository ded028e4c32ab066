"""python-ldap: no transactions, connections that are bound as a user, and connecting in C."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import ldap

from django_db_pooling.drivers.base import Driver
from django_db_pooling.drivers.rules import NO_STATEMENTS
from django_db_pooling.ldap.attempt import Attempt, AttemptTimeout
from django_db_pooling.ldap.connecting import close
from django_db_pooling.ldap.tls import says_trouble
from django_db_pooling.pool.slot import Slot


class LDAP(Driver):
    rules = NO_STATEMENTS
    learned = ("page_size",)
    remembers_transaction = True
    has_transactions = False
    scope = "transaction"

    def hub(self) -> object:
        # Any hub can use any connection: the locks are native ones, and only a descriptor is waited for.
        return None

    def fileno(self, connection: Any) -> int | None:
        descriptor: int | None = connection.descriptor
        return descriptor

    def open(self, slot: Slot, make: Callable[[], Any], seconds: float | None) -> None:
        attempt = slot.attempt = Attempt(make, partial(_fill, slot), close, seconds)
        try:
            attempt.wait()
        except AttemptTimeout as error:
            info = f"still connecting after {error.seconds:.1f} s"
            raise ldap.TIMEOUT({"desc": "Timed out", "info": info}) from None
        finally:
            if attempt.is_over:
                slot.attempt = None

    def disconnect(self, connection: Any) -> None:
        close(connection)

    def alive(self, connection: Any) -> bool | None:
        # Something unread that nobody has asked for is a notice of disconnection.
        return super().alive(connection) is True

    def broken(self, connection: Any) -> bool:
        return connection.is_broken or connection.descriptor is None

    def unread(self, connection: Any) -> bool:
        """Whether an answer is still to come, or its session is not fit for others."""
        return bool(connection.pending) or connection.is_dirty

    def in_transaction(self, connection: Any) -> bool:
        return False

    def is_clean(self, connection: Any) -> bool:
        return super().is_clean(connection) and connection.has_options_as_opened

    def rollback(self, connection: Any, seconds: float | None) -> None:
        """LDAP has no transactions, but options that its user may have changed."""
        connection.restore_options()

    def usable(self, connection: Any, ask: Callable[[], bool], seconds: float | None) -> bool:
        return bool(connection.is_usable(seconds))

    def server_away(self, error: BaseException) -> bool:
        # Not ldap.TIMEOUT: the attempt that was late may still go on.
        # And a certificate that is refused will be refused again.
        is_away = isinstance(error, ldap.SERVER_DOWN | ldap.CONNECT_ERROR | ldap.UNAVAILABLE | ldap.BUSY)
        return is_away and not says_trouble(error)

    def detach_cursor(self, cursor: Any) -> bool:
        cursor.connection = None
        return True

    def adapt(self, params: dict[str, Any], seconds: float | None) -> None:
        params["seconds"] = seconds


def _fill(slot: Slot, connection: Any) -> None:
    slot.connection = connection


DRIVER = LDAP()
