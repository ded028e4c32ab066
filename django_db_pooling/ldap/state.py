"""The connection that users of ConnectionManager get."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from django_db_pooling.ldap.connector import CONNECTION_BROKEN, Connector
from django_db_pooling.ldap.identities import Secret
from django_db_pooling.log import redact
from django_db_pooling.process.deadline import Deadline

# A search is made so often again. Once more than one that breaks needs: a server that stops may
# accept a last connection meanwhile.
REPEATS = 2


class StateConnector(Connector):
    """A connection that says whose it is. ``cred`` equals the password that it was bound with, and hides it.

    A search whose connection turns out to be broken is made again, on a fresh one. Nothing else is.
    ``active``: it is in use.
    """

    active = False
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
        """Whether it can be used. One that is set to False is closed when it is given back."""
        # python-ldap's __setattr__ puts it there, past any setter.
        is_wanted: bool = self.__dict__.get("connected", True)
        return is_wanted and self.descriptor is not None and not self.is_broken

    def get_lifetime(self) -> float:
        """Seconds since it was connected, 0 before."""
        return 0.0 if self._connected_at is None else time.monotonic() - self._connected_at

    def search_ext_s(self, *arguments: Any, **keywords: Any) -> Any:
        answer_timeout = self.answer_timeout
        deadline = Deadline(answer_timeout)
        try:
            return super().search_ext_s(*arguments, **keywords)
        except CONNECTION_BROKEN:
            if self._reopen is None or not self._reopen(deadline):
                raise
        try:
            return self._search_again(deadline, arguments, keywords)
        finally:
            self.answer_timeout = answer_timeout

    def _search_again(self, deadline: Deadline, arguments: Any, keywords: Any) -> Any:
        for _ in range(REPEATS - 1):
            self.answer_timeout = deadline.left()
            try:
                return super().search_ext_s(*arguments, **keywords)
            except CONNECTION_BROKEN:
                if self._reopen is None or not self._reopen(deadline):
                    raise
        self.answer_timeout = deadline.left()
        return super().search_ext_s(*arguments, **keywords)

    def __str__(self) -> str:
        state = "connected" if self.connected else "disconnected"
        return f"LDAP connector ({state}) - who: {redact(repr(self.who))} - uri: {redact(repr(self._uri))}"
