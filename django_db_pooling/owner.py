"""Who holds connections: one Owner per thread or greenlet, which notices when that ends."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from django_db_pooling import inherited

_local = threading.local()


class Holder:
    """Says who holds a connection, when somebody asks."""

    __slots__ = ("ident", "request")

    def __init__(self) -> None:
        self.ident = threading.get_ident()
        self.request: str | None = None

    def __str__(self) -> str:
        name = next((t.name for t in threading.enumerate() if t.ident == self.ident), str(self.ident))
        return f"{self.request or 'code outside of a request'} in thread {name}"


class Owner:
    """What one thread or greenlet has checked out.

    It lives in a thread-local and in no reference cycle, so it goes at the moment in which its
    thread or greenlet ends. Wrappers don't: they refer to themselves and wait for the garbage
    collector.
    """

    __slots__ = ("__weakref__", "_outer", "_wrappers", "holder", "pid", "request")

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.holder = Holder()
        # Wrappers that have checked out here. Weak: one that its user drops is not kept by this.
        self._wrappers: set[weakref.ref[Any]] = set()
        # Something that is this request's only, between its start and its end.
        self.request: object = None
        # Wrappers whose transaction began before the request did: somebody else's to end.
        self._outer: list[Any] = []

    def add(self, wrapper: Any) -> None:
        """This wrapper has checked a connection out."""
        self._wrappers.add(weakref.ref(wrapper, self._wrappers.discard))

    def holding(self) -> list[Any]:
        """Wrappers with a connection that is this owner's to give back."""
        wrappers = [ref() for ref in list(self._wrappers)]
        return [w for w in wrappers if w is not None and w.holds and not w.is_shared]

    def begin_request(self, label: str | None) -> None:
        self.request = object()
        self._outer = [wrapper for wrapper in self.holding() if wrapper.in_atomic_block]
        self.holder.request = label

    def finish_request(self) -> None:
        """Give back what the request holds (I/O where a transaction is open)."""
        for wrapper in self._held_by_request():
            wrapper.give_back()
        self._forget_request()

    def abandon_request(self) -> None:
        """The request is over, and nobody said so. No I/O."""
        for wrapper in self._held_by_request():
            wrapper.abandon()
        self._forget_request()

    def _held_by_request(self) -> list[Any]:
        # A transaction that is open belongs to somebody further out (TestCase), unless the request
        # has begun it.
        return [
            wrapper
            for wrapper in self.holding()
            if not wrapper.in_atomic_block or (self.request is not None and wrapper not in self._outer)
        ]

    def _forget_request(self) -> None:
        self.request = None
        self._outer = []
        self.holder.request = None

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_finalizing() or not self._wrappers:
            return
        if os.getpid() != self.pid:
            # In a forked child, whose other threads are gone. The connections are the parent's.
            inherited.keep(self.holding())
            return
        for wrapper in self.holding():
            wrapper.abandon()


class RequestEnd:
    """Lives in a request's ``environ`` and notices when the server lets go of that.

    A server may go on with the same thread or greenlet after a request that was killed, without
    request_finished and without an end of the greenlet: gunicorn does with keep-alive.
    """

    __slots__ = ("_owner", "_request")

    def __init__(self, owner: Owner) -> None:
        self._owner = weakref.ref(owner)
        self._request = owner.request

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        owner = None if is_finalizing() else self._owner()
        if owner is not None and owner.request is self._request and owner.pid == os.getpid():
            owner.abandon_request()


def current() -> Owner:
    """The owner of this thread or greenlet."""
    try:
        owner: Owner = _local.owner
    except AttributeError:
        owner = _local.owner = Owner()
    return owner


def follow_gevent() -> None:
    """Keep owners per greenlet, should gevent have patched threading after our import."""
    global _local
    if type(_local) is not threading.local:
        _local = threading.local()


def forget_all() -> None:
    """In a forked child: nothing is owned here."""
    global _local
    inherited.keep(_local)
    _local = threading.local()
