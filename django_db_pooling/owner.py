"""Who holds connections, and how long: one Owner per thread or greenlet, which notices when that ends.

Wrappers add themselves. What a request or a ``scope()`` has checked out is given back at its end.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ContextDecorator, contextmanager
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from types import MappingProxyType
from typing import Any, TypeVar

from django_db_pooling import conf
from django_db_pooling.log import safe_label
from django_db_pooling.pool.holders import Holder
from django_db_pooling.process import fork

# Nested requests that are remembered; if there are more, the end of the oldest was never signalled.
MAX_NESTED = 16

# The scope outside of requests, where no end of a unit of work would give back.
ELSEWHERE = conf.TRANSACTION

_local = threading.local()

# Wrappers, and for what each held its connection.
Claims = Sequence[tuple[weakref.ref[Any], object]]
F = TypeVar("F", bound=Callable[..., Any])


class Request(Holder):
    """A request that a thread or greenlet handles; with Django's test client inside of another one.

    ``path``: of a WSGI server, as it is in ``environ``. ``held_before``: what code around the request holds,
    a TestCase's transaction for example.
    """

    __slots__ = ("_method", "_path", "held_before", "outer", "over")

    def __init__(self, owner: Owner, method: str | None, path: str | None) -> None:
        self.ident = None
        self.owner = weakref.ref(owner)
        self._method = method
        self._path = path
        self.outer = owner.request
        self.held_before: Claims = owner.claims() if owner.wrappers else ()
        self.over = False

    @property
    def request(self) -> str | None:
        # Made when somebody asks for it, which may be long after the request.
        path = self._path
        if path is None or self._method is None:
            return None if path is None else safe_label(path)
        return safe_label(f"{self._method} {path if path.isascii() else _decoded(path)}")


def _decoded(path: str) -> str:
    """The path as views see it; as it is where it can't be: WSGI wants one that Latin-1 can encode."""
    # Not before a request: this is imported before others may have patched what it imports.
    from django.core.handlers.wsgi import get_path_info

    try:
        return get_path_info({"PATH_INFO": path})
    except UnicodeEncodeError:
        return path


class RequestEnd:
    """Lives in a request's ``environ`` and is collected with it.

    After a request that was killed, a server may go on with the same thread or greenlet, without
    request_finished: gunicorn does with keep-alive.
    """

    __slots__ = ("_request",)

    def __init__(self, request: Request) -> None:
        self._request = request

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if self._request.over or is_finalizing():
            return
        # In a cycle of garbage weak references are cleared before this is called. But the owner, which lives,
        # refers to the request, so that this one isn't garbage.
        owner = self._request.owner()
        if owner is not None and fork.is_own(owner.process):
            owner.abandon_request(self._request)


class Owner:
    """What one thread or greenlet has checked out.

    It lives in a thread-local and in no reference cycle, so its finalizer runs at the moment in which the
    thread or greenlet ends. Wrappers are in cycles, and wait for the garbage collector.
    """

    # Names given to pooling.scope(), innermost last; None: that of the settings.
    scopes: tuple[str | None, ...] = ()
    # Seconds to wait for a connection at most, where the pool's timeout is longer.
    max_wait: float | None = None
    # The innermost request that it handles. Without request_finished one stays until its environ, or this
    # owner, is collected.
    request: Request | None = None
    # Who holds what is checked out outside of requests.
    outside: Holder | None = None
    # The units of work that have begun here, besides requests: by who told of them.
    units: Mapping[str, Any] = MappingProxyType({})
    # While it waits for a connection: in which pool, and as whom.
    waiting: tuple[Any, Any] | None = None

    def __init__(self) -> None:
        self.process = fork.process
        # Wrappers that have checked out here, by their id().
        self.wrappers: dict[int, weakref.ref[Any]] = {}

    @property
    def holder(self) -> Holder:
        """Who holds what is checked out now."""
        if self.request is not None:
            return self.request
        if self.outside is None:
            self.outside = Holder(weakref.ref(self))
        return self.outside

    def holding(self) -> list[Any]:
        """Wrappers with something that this owner has to give back."""
        held = []
        for key, ref in list(self.wrappers.items()):
            wrapper = ref()
            if wrapper is None:
                self.wrappers.pop(key, None)
            elif wrapper.holds:
                held.append(wrapper)
        return held

    def claims(self) -> Claims:
        """What is held at this moment."""
        return [(weakref.ref(wrapper), wrapper.claim) for wrapper in self.holding()]

    def scope(self, of_requests: str) -> str:
        """The scope that applies at this moment. ``of_requests``: the settings' SCOPE."""
        if self.scopes:
            return self.scopes[-1] or of_requests
        return ELSEWHERE if self.request is None else of_requests

    @property
    def may_rest(self) -> bool:
        """Whether a changed session may be left at rest: outside of any unit of work, since nothing reports
        an end there. Not in the main thread, in which scripts run.
        """
        return not (self.request or self.scopes) and threading.get_ident() != threading.main_thread().ident

    def begin_request(self, method: str | None, path: str | None) -> Request:
        request = self.request = Request(self, method, path)
        if request.outer is not None:
            self._forget_oldest()
        return request

    def _requests(self) -> list[Request]:
        """The innermost first."""
        found, request = [], self.request
        while request is not None:
            found.append(request)
            request = request.outer
        return found

    def _forget_oldest(self) -> None:
        """Of too many: its end was never signalled."""
        requests = self._requests()
        if len(requests) > MAX_NESTED:
            requests[MAX_NESTED - 1].outer = None

    def finish_request(self) -> None:
        """Give back what the innermost request has checked out (I/O where a transaction is open)."""
        held = self.holding()
        request = self.request
        if request is None:
            # Without request_started. A transaction then belongs to code around the request.
            give_all_back([wrapper for wrapper in held if not wrapper.in_atomic_block])
            return
        try:
            if held:
                give_all_back(others(held, request.held_before))
        finally:
            # After that: what is logged meanwhile is about this request.
            self._leave(request)

    def abandon_request(self, request: Request) -> None:
        """The request is over, without request_finished. No I/O. What has begun after it goes on: also blocks
        and statements of the code that has got its response.
        """
        if not all(wrapper.is_here for wrapper in self.holding()):
            # In its own thread the owner may be at any point. Its next request gives back.
            request.over = True
            return
        requests = self._requests()
        if request not in requests:
            return
        held = self.holding()
        if request is not self.request:
            later = requests[requests.index(request) - 1]
            later.outer = request.outer
            request.over = True
            # Of what is held now, this request's is what was held already when the next one began.
            mine = [claim for claim in later.held_before if claim not in request.held_before]
            held = [wrapper for wrapper in held if (weakref.ref(wrapper), wrapper.claim) in mine]
        else:
            held = others(held, request.held_before)
            self._leave(request)
        for wrapper in held:
            if not wrapper.is_busy:
                wrapper.abandon()

    def _leave(self, request: Request) -> None:
        """End this request and those inside of it."""
        left = self.request
        while left is not None and not request.over:
            left.over, left.held_before = True, ()
            left = left.outer
        while left is not None and left.over:
            # Another thread has noticed its end.
            left = left.outer
        self.request = left

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_finalizing() or not self.wrappers:
            return
        # As fork.is_own(), without a call.
        if not fork.noticed[0] or self.process is not fork.process:
            # In a forked child. The connections are the parent's.
            fork.never_free(self.holding())
            return
        for ref in list(self.wrappers.values()):
            wrapper = ref()
            if wrapper is not None:
                if wrapper.holds:
                    wrapper.abandon()
                wrapper.retire()


def others(held: list[Any], before: Claims) -> list[Any]:
    """Those that hold something else than before."""
    if not before:
        return held
    return [wrapper for wrapper in held if (weakref.ref(wrapper), wrapper.claim) not in before]


def give_all_back(wrappers: list[Any]) -> None:
    """Each of them, also if one fails."""
    if wrappers:
        try:
            wrappers[0].give_back()
        finally:
            # Not an ExitStack: a signal handler's exception could leave that between two of them.
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
    """The wrappers of all these holders, in whatever thread."""
    owners = (ref() for holder in holders if (ref := getattr(holder, "owner", None)) is not None)
    return [wrapper for one in owners if one is not None for wrapper in one.holding()]


@contextmanager
def max_wait(seconds: float) -> Iterator[None]:
    """Wait no longer than this for each connection in the block, whatever the settings say.

    For code that can do without one: its timeouts are neither counted nor logged.
    """
    mine = current()
    before, mine.max_wait = mine.max_wait, seconds
    try:
        yield
    finally:
        mine.max_wait = before


def use_storage(storage: Any) -> None:
    """Store owners in this threading.local, which Django uses for its wrappers.

    In a new greenlet the first use of a threading.local costs more than all else in this module. What is no
    ``threading.local`` (gevent's, once that has patched) is replaced by one.
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


class scope(ContextDecorator):
    """Context manager and decorator: what this thread or greenlet checks out inside goes back at its end.

    ``name``: how long a connection is held inside, ``"request"`` (to the end of this scope) or
    ``"transaction"`` (as long as a transaction needs it); left out, as in the scope around it, or else as the
    settings say for requests. What was checked out before, for a transaction around it for example, stays.
    A transaction that was begun inside and is still open at the end is rolled back. Raises ValueError for
    another name.
    """

    def __init__(self, name: str | None = None) -> None:
        if name not in (None, conf.REQUEST, conf.TRANSACTION):
            raise ValueError(f"name must be {conf.REQUEST!r}, {conf.TRANSACTION!r} or None, not {name!r}")
        self._name = name
        # One for each time that it was entered: what was held then, and in which scopes it is.
        self._before: list[tuple[Claims, tuple[str | None, ...]]] = []

    def __call__(self, func: F) -> F:
        if isgeneratorfunction(func) or iscoroutinefunction(func) or isasyncgenfunction(func):
            raise TypeError(f"scope() would end before {func.__qualname__}() runs; use it inside of it")
        return super().__call__(func)

    def _recreate_cm(self) -> scope:
        return type(self)(self._name)

    def __enter__(self) -> scope:
        mine = current()
        around = mine.scopes
        self._before.append((mine.claims(), around))
        mine.scopes = (*around, self._name or (around[-1] if around else None))
        return self

    def __exit__(self, *exc_info: object) -> None:
        mine = current()
        claims, mine.scopes = self._before[-1]
        give_all_back(others(mine.holding(), claims))
        self._before.pop()
