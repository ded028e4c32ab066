"""The connection that users of ConnectionManager get."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ldap

from django_db_pooling.ldap.connector import Connector
from django_db_pooling.ldap.identities import Secret
from django_db_pooling.log import redact
from django_db_pooling.process.deadline import Deadline


class StateConnector(Connector):
    """A connection that says whose it is. ``cred`` equals the password that it was bound with, and hides it.

    A search whose connection turns out to be broken is made once more, on a fresh one. Nothing else is.
    """

    who: str | None = None
    cred: Secret | None = None
    _connected_at: float | None = None
    _reopen: Callable[[Deadline], bool] | None = None

    def open(self, bind: str | None, password: str | None, **arguments: Any) -> None:
        super().open(bind, password, **arguments)
        self.who, self.cred = bind, None if password is None else Secret(password)
        self._connected_at = time.monotonic()

    @property
    def connected(self) -> bool:
        return self.descriptor is not None and not self.is_broken

    def get_lifetime(self) -> float:
        """Seconds since it was connected, 0 before."""
        return 0.0 if self._connected_at is None else time.monotonic() - self._connected_at

    def search_ext_s(self, *arguments: Any, **keywords: Any) -> Any:
        answer_timeout = self.answer_timeout
        deadline = Deadline(answer_timeout)
        try:
            return super().search_ext_s(*arguments, **keywords)
        except ldap.SERVER_DOWN:
            if self._reopen is None or not self._reopen(deadline):
                raise
        try:
            self.answer_timeout = deadline.left()
            return super().search_ext_s(*arguments, **keywords)
        finally:
            self.answer_timeout = answer_timeout

    def __str__(self) -> str:
        state = "connected" if self.connected else "disconnected"
        return f"LDAP connector ({state}) - who: {redact(repr(self.who))} - uri: {redact(repr(self._uri))}"
