"""Who holds connections: one Owner per thread or greenlet, which notices when that ends."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from django_db_pooling import inherited

# Deeper than tests nest requests. Bounds what is kept of requests whose end nobody tells.
MOST_NESTED = 16

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


class Request:
    """A request that this thread or greenlet is at; inside of another one with the test client."""

    __slots__ = ("held_before", "label")

    def __init__(self, label: str | None, held_before: list[Any]) -> None:
        self.label = label
        # Wrappers that somebody further out holds, a TestCase's transaction for example.
        self.held_before = held_before


class Owner:
    """What one thread or greenlet has checked out.

    It lives in a thread-local and in no reference cycle, so it goes at the moment in which its
    thread or greenlet ends. Wrappers don't: they refer to themselves and wait for the garbage
    collector.
    """

    __slots__ = ("__weakref__", "_requests", "_wrappers", "holder", "pid")

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.holder = Holder()
        # Wrappers that have checked out here. Weak: one that its user drops is not kept by this.
        self._wrappers: set[weakref.ref[Any]] = set()
        # Innermost last. One whose end nobody told stays until its environ or this owner goes.
        self._requests: deque[Request] = deque(maxlen=MOST_NESTED)

    def add(self, wrapper: Any) -> None:
        """This wrapper has checked a connection out."""
        self._wrappers.add(weakref.ref(wrapper, self._wrappers.discard))

    def holding(self) -> list[Any]:
        """Wrappers with a connection that is this owner's to give back."""
        wrappers = [ref() for ref in list(self._wrappers)]
        return [w for w in wrappers if w is not None and w.holds and not w.is_shared]

    def begin_request(self, label: str | None) -> Request:
        request = Request(label, self.holding())
        self._requests.append(request)
        self.holder.request = label
        return request

    def finish_request(self) -> None:
        """Give back what the innermost request has checked out (I/O where a transaction is open)."""
        if self._requests:
            held = self._held_by(self._requests[-1])
            self._leave(self._requests[-1])
        else:
            # Nobody said that one began. A transaction is then somebody else's.
            held = [wrapper for wrapper in self.holding() if not wrapper.in_atomic_block]
        give_all_back(held)

    def abandon_request(self, request: Request) -> None:
        """The request is over, and nobody said so. No I/O."""
        if request in self._requests:
            for wrapper in self._held_by(request):
                wrapper.abandon()
            self._leave(request)

    def _held_by(self, request: Request) -> list[Any]:
        return [wrapper for wrapper in self.holding() if wrapper not in request.held_before]

    def _leave(self, request: Request) -> None:
        while self._requests and self._requests.pop() is not request:
            pass
        self.holder.request = self._requests[-1].label if self._requests else None

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

    def __init__(self, owner: Owner, request: Request) -> None:
        self._owner = weakref.ref(owner)
        self._request = request

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        owner = None if is_finalizing() else self._owner()
        if owner is not None and owner.pid == os.getpid():
            owner.abandon_request(self._request)


def give_all_back(wrappers: list[Any]) -> None:
    """Each of them, also if one is interrupted."""
    with ExitStack() as stack:
        for wrapper in wrappers:
            stack.callback(wrapper.give_back)


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
