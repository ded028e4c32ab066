"""Whom a connection is bound as, and with which password, without keeping that."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import weakref
from typing import Any

from django_db_pooling.log import redact
from django_db_pooling.process import green

# Of this process: what is told apart with it can't be compared with anything outside.
_KEY = secrets.token_bytes(32)


def _digest(password: str | bytes) -> bytes:
    raw = password.encode() if isinstance(password, str) else password
    return hashlib.blake2b(raw, key=_KEY).digest()


class Secret:
    """Equals a password, and hides it."""

    __slots__ = ("_told",)

    def __init__(self, password: str | bytes) -> None:
        self._told = _digest(password)

    def __eq__(self, other: Any) -> bool:
        if isinstance(other, str | bytes):
            other = Secret(other)
        return isinstance(other, Secret) and hmac.compare_digest(self._told, other._told)

    def __hash__(self) -> int:
        return hash(self._told)

    def __repr__(self) -> str:
        return "<secret>"


class Identity:
    """A name and a password. There is one of the same at a time: it is told by ``is``."""

    __slots__ = ("__weakref__", "bind")

    def __init__(self, bind: str | None) -> None:
        self.bind = bind

    def __repr__(self) -> str:
        return f"<Identity of {redact(repr(self.bind))}>"


class Credentials:
    """Whom to bind as, and with which password: for as long as a checkout lasts."""

    __slots__ = ("identity", "password")

    def __init__(self, identity: Identity, password: str | None) -> None:
        self.identity = identity
        self.password = password

    @property
    def bind(self) -> str | None:
        return self.identity.bind


class Identities:
    """Finds the identity of a name and a password, as long as somebody has it."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[tuple[str | None, bytes | None], Identity]
        self._known = weakref.WeakValueDictionary()
        self.renew_lock()

    def renew_lock(self) -> None:
        """In a forked child nobody may be left to release it."""
        # A native one: greenlets don't switch while they have it. Reentrant for the sake of finalizers.
        self._lock = green.original("_thread", "RLock")()

    def of(self, bind: str | None, password: str | bytes | None) -> Identity:
        key = (bind, None if password is None else _digest(password))
        with self._lock:
            return self._known.setdefault(key, Identity(bind))

    def credentials(self, bind: str | None, password: str | None) -> Credentials:
        return Credentials(self.of(bind, password), password)
