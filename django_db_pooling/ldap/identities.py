"""Whom a connection is bound as, and with which password, without keeping the password."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import weakref
from typing import Any

from django_db_pooling.log import redact
from django_db_pooling.process import green

# Of this process: its digests are of no use outside.
_KEY = secrets.token_bytes(32)


def _digest(password: str | bytes) -> bytes:
    raw = password.encode() if isinstance(password, str) else password
    return hashlib.blake2b(raw, key=_KEY).digest()


class Secret:
    """Equals a password, and hides it."""

    __slots__ = ("_digested",)

    def __init__(self, password: str | bytes) -> None:
        self._digested = _digest(password)

    def __eq__(self, other: Any) -> bool:
        if isinstance(other, str | bytes):
            other = Secret(other)
        return isinstance(other, Secret) and hmac.compare_digest(self._digested, other._digested)

    def __hash__(self) -> int:
        return hash(self._digested)

    def __repr__(self) -> str:
        return "<secret>"


class Identity:
    """A name and a password. There is one object at a time for the same two: compare with ``is``."""

    __slots__ = ("__weakref__", "bind")

    def __init__(self, bind: str | None) -> None:
        self.bind = bind

    def __repr__(self) -> str:
        return f"<Identity of {redact(repr(self.bind))}>"


class Credentials:
    """Whom to bind as, and with which password. It is kept no longer than a checkout lasts."""

    __slots__ = ("identity", "password")

    def __init__(self, identity: Identity, password: str | None) -> None:
        self.identity = identity
        self.password = password

    @property
    def bind(self) -> str | None:
        return self.identity.bind


class Identities:
    """Finds the identity of a name and a password, for as long as anything refers to it."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[tuple[str | None, bytes | None], Identity]
        self._known = weakref.WeakValueDictionary()
        self.renew_lock()

    def renew_lock(self) -> None:
        """In a forked child the thread that holds it is missing."""
        # A native one: no greenlet switches while it holds it. Reentrant, since a finalizer may need it.
        self._lock = green.original("_thread", "RLock")()

    def of(self, bind: str | None, password: str | bytes | None) -> Identity:
        key = (bind, None if password is None else _digest(password))
        with self._lock:
            return self._known.setdefault(key, Identity(bind))

    def credentials(self, bind: str | None, password: str | None) -> Credentials:
        return Credentials(self.of(bind, password), password)
