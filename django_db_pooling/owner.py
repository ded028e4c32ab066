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

    __slots__ = ("__weakref__", "_wrappers", "holder", "in_request", "outer", "pid")

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.holder = Holder()
        # Wrappers that have checked out here. Weak: one that its user drops is not kept by this.
        self._wrappers: set[weakref.ref[Any]] = set()
        # Between request_started and request_finished.
        self.in_request = False
        # Wrappers whose transaction began before the request did: somebody else's to end.
        self.outer: list[Any] = []

    def add(self, wrapper: Any) -> None:
        """This wrapper has checked a connection out."""
        self._wrappers.add(weakref.ref(wrapper, self._wrappers.discard))

    def holding(self) -> list[Any]:
        """Wrappers with a connection that is this owner's to give back."""
        wrappers = [ref() for ref in list(self._wrappers)]
        return [w for w in wrappers if w is not None and w.holds and not w.is_shared]

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_finalizing() or not self._wrappers:
            return
        if os.getpid() != self.pid:
            # In a forked child, whose other threads are gone. The connections are the parent's.
            inherited.keep(self.holding())
            return
        for wrapper in self.holding():
            wrapper.abandon()


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
