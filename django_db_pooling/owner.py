"""Who holds connections: one Owner per thread or greenlet, which notices when that ends."""

from __future__ import annotations

import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from django_db_pooling import conf
from django_db_pooling.log import label
from django_db_pooling.process import fork

# Deeper than tests nest requests. Bounds what is kept of requests whose end nobody tells.
MAX_NESTED = 16

# The scope outside of requests: in threads that never end nobody would say when to give back.
ELSEWHERE = conf.TRANSACTION

_local = threading.local()


# Wrappers, and what they held then.
Claims = list[tuple[Any, object]]


class Holder:
    """Says who holds a connection, when somebody asks."""

    __slots__ = ("ident", "owner", "request")

    def __init__(self, owner: Owner) -> None:
        self.ident = threading.get_ident()
        self.owner = weakref.ref(owner)
        self.request: str | None = None

    def __str__(self) -> str:
        name = next((t.name for t in threading.enumerate() if t.ident == self.ident), str(self.ident))
        return f"{self.request or 'code outside of a request'} in thread {label(name)}"


class Request:
    """A request that this thread or greenlet is at; inside of another one with the test client."""

    __slots__ = ("held_before", "label", "over")

    def __init__(self, label: str | None, held_before: Claims) -> None:
        self.label = label
        self.over = False
        # Wrappers that somebody further out holds, a TestCase's transaction for example.
        self.held_before = held_before


class Owner:
    """What one thread or greenlet has checked out.

    It lives beside the wrappers in a thread-local, but in no reference cycle, so it goes at the moment
    in which its thread or greenlet ends. Wrappers don't: they refer to themselves and wait for the
    garbage collector.
    """

    __slots__ = ("__weakref__", "_requests", "_wrappers", "holder", "max_wait", "process", "scopes")

    def __init__(self) -> None:
        self.process = fork.process
        self.holder = Holder(self)
        # Wrappers that have checked out here. Weak: one that its user drops is not kept by this.
        self._wrappers: set[weakref.ref[Any]] = set()
        # Names that pooling.scope() was given. Innermost last.
        self.scopes: list[str] = []
        # Most seconds that this one waits for a connection, where the pool's timeout allows for more.
        self.max_wait: float | None = None
        # Innermost last. One whose end nobody told stays until its environ or this owner goes.
        self._requests: deque[Request] = deque(maxlen=MAX_NESTED)

    def add(self, wrapper: Any) -> None:
        """This wrapper has checked a connection out."""
        self._wrappers.add(weakref.ref(wrapper, self._wrappers.discard))

    def holding(self) -> list[Any]:
        """Wrappers with a connection that is this owner's to give back."""
        held = []
        for ref in list(self._wrappers):
            wrapper = ref()
            if wrapper is not None and wrapper.holds and not wrapper.is_shared:
                held.append(wrapper)
        return held

    def claims(self) -> Claims:
        """What is held at this moment, and for what."""
        return [(wrapper, wrapper.claim) for wrapper in self.holding()]

    def scope(self, of_requests: str) -> str:
        """The scope that applies here at this moment; ``of_requests``: what the settings say of requests."""
        if self.scopes:
            return self.scopes[-1]
        return of_requests if self._requests else ELSEWHERE

    @property
    def may_rest(self) -> bool:
        """Whether this is a thread outside of any unit of work, whose end nobody tells: not the main one, in
        which commands and scripts run.
        """
        return not (self._requests or self.scopes) and self.holder.ident != threading.main_thread().ident

    def begin_request(self, label: str | None) -> Request:
        request = Request(label, self.claims() if self._wrappers else [])
        self._requests.append(request)
        self.holder.request = label
        return request

    def finish_request(self) -> None:
        """Give back what the innermost request has checked out (I/O where a transaction is open)."""
        held, holder = self.holding(), self.holder
        label = holder.request
        if self._requests:
            held = self._leave(self._requests[-1], held)
        else:
            # Nobody said that one began. A transaction is then somebody else's.
            held = [wrapper for wrapper in held if not wrapper.in_atomic_block]
        if held:
            # It is still this one's, should something be wrong with it.
            outer, holder.request = holder.request, label
            try:
                give_all_back(held)
            finally:
                holder.request = outer

    def abandon_request(self, request: Request) -> None:
        """The request is over, and nobody said so. No I/O. What has begun after it goes on."""
        requests = list(self._requests)
        if request not in requests:
            return
        later = requests[requests.index(request) + 1 :]
        if later:
            self._requests.remove(request)
            request.over = True
            # What was this one's and is still held was there when the next one began.
            mine = [claim for claim in later[0].held_before if claim not in request.held_before]
            held = [wrapper for wrapper in self.holding() if (wrapper, wrapper.claim) in mine]
        else:
            held = self._leave(request, self.holding())
        for wrapper in held:
            wrapper.abandon()

    def _leave(self, request: Request, held: list[Any]) -> list[Any]:
        """Those of the wrappers that hold something for this request, or for one inside of it."""
        while self._requests:
            left = self._requests.pop()
            left.over = True
            if left is request:
                break
        self.holder.request = self._requests[-1].label if self._requests else None
        return others(held, request.held_before)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_finalizing() or not self._wrappers:
            return
        if not fork.is_own(self.process):
            # In a forked child. The connections are the parent's.
            fork.never_free(self.holding())
            return
        for wrapper in self.holding():
            wrapper.abandon()
        for ref in list(self._wrappers):
            left = ref()
            if left is not None and not left.is_shared:
                left.break_cycles()


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
        owner = None if self._request.over or is_finalizing() else self._owner()
        if owner is not None and fork.is_own(owner.process):
            owner.abandon_request(self._request)


def others(held: list[Any], before: Claims) -> list[Any]:
    """Those that hold for something else than they did before."""
    return [wrapper for wrapper in held if (wrapper, wrapper.claim) not in before] if before else held


def give_all_back(wrappers: list[Any]) -> None:
    """Each of them, also if one is interrupted."""
    if wrappers:
        try:
            wrappers[0].give_back()
        finally:
            # Not an ExitStack, which a signal's handler can leave between two of them.
            give_all_back(wrappers[1:])


def current() -> Owner:
    """The owner of this thread or greenlet."""
    if not fork.noticed[0]:
        fork.notice()
    try:
        owner: Owner = _local.django_db_pooling_owner
        if owner.process is fork.process:
            return owner
    except AttributeError:
        pass
    owner = _local.django_db_pooling_owner = Owner()
    return owner


def holding(holders: Iterable[object]) -> list[Any]:
    """The wrappers of all that these connections are held by, in whatever thread."""
    owners = (ref() for holder in holders if (ref := getattr(holder, "owner", None)) is not None)
    return [wrapper for one in owners if one is not None for wrapper in one.holding()]


@contextmanager
def max_wait(seconds: float) -> Iterator[None]:
    """Wait no longer than this for each connection in the block, whatever the settings say.

    For who can do without. When it gets none, that is no timeout that anybody should hear of.
    """
    mine = current()
    before, mine.max_wait = mine.max_wait, seconds
    try:
        yield
    finally:
        mine.max_wait = before


def use_storage(storage: Any) -> None:
    """Keep owners in a threading.local in which others keep something for each thread or greenlet, too.

    The first use of a storage costs a greenlet of gevent more than all else that happens here. What is
    no threading.local of this instant (gevent's, once that has patched) is as good as none.
    """
    global _local
    if type(storage) is not threading.local:
        if type(_local) is threading.local:
            return
        storage = threading.local()
    if storage is not _local:
        mine, _local = getattr(_local, "django_db_pooling_owner", None), storage
        if mine is not None:
            _local.django_db_pooling_owner = mine
