"""Where Django and the pools meet: the patch of ConnectionHandler, requests, fork and exit."""

from __future__ import annotations

import threading
import weakref
from asyncio import _get_running_loop
from collections.abc import Callable
from functools import partial
from inspect import getattr_static
from types import FunctionType
from typing import Any

from asgiref.local import Local
from django.conf import settings
from django.core import signals
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections
from django.db import utils as db_utils
from django.db.utils import ConnectionHandler
from django.utils import connection as connection_utils

from django_db_pooling import checks, conf, drivers, owner, units
from django_db_pooling.addresses import HostWatch
from django_db_pooling.backend import reuse
from django_db_pooling.backend.pinging import pinger
from django_db_pooling.backend.serving import serving
from django_db_pooling.backend.wrapper import PooledWrapper, make_pooled
from django_db_pooling.metrics import exporters
from django_db_pooling.process import fork, green, upkeep
from django_db_pooling.process.tasks import Tasks
from django_db_pooling.registry import registry
from django_db_pooling.workers.agent import agent

# Of our receivers of Django's signals.
_UID = "django_db_pooling"
# Django's own methods are functions of these modules.
_DJANGOS = (vars(connection_utils), vars(db_utils))

# Whether patch() is in force: a tracer may go on calling what it has found.
_is_on = False
# By the name of a method of ConnectionHandler: ours, and what it has replaced there (None: nothing).
_replaced: dict[str, tuple[Any, Any]] = {}
# Where Django's handler keeps its wrappers, and the threading.local in that.
_connections: Any = None
_storage: Any = None
# Plain wrappers from before patch() that are not pooled yet: their transactions go on.
_unpooled: set[weakref.ref[Any]] = set()
# Whether it is sure that what Django keeps per thread is kept per greenlet where gevent is active.
_storage_is_local = False


def _getitem(self: Any, alias: str) -> Any:
    """This thread's or greenlet's wrapper, made at first use by Django and turned into a pooled one."""
    if not fork.noticed[0]:
        fork.notice()
    if _unpooled:
        _pool_what_is_free()
    # asgiref's storage where it isn't plainly this thread's.
    storage = _storage if self._connections is _connections and not _get_running_loop() else self._connections
    try:
        return getattr(storage, alias)
    except AttributeError:
        pass
    if not _is_on or alias not in self.settings:
        # After unpatch(); an error, or an alias of which only this handler knows.
        return super(ConnectionHandler, self).__getitem__(alias)
    pool = registry.by_alias.get(alias)
    identity = None if pool is None else pool.current
    wrapper = None
    # Another handler, or new settings, may go by the same alias.
    if identity is not None and identity.settings_dict is self.settings[alias]:
        wrapper = reuse.take(identity)
    if wrapper is None:
        wrapper = self.create_connection(alias)
        if not conf.is_off(wrapper.settings_dict):
            make_pooled(wrapper)
            if pool is not None:
                pool.share_learned(wrapper)
    setattr(storage, alias, wrapper)
    return wrapper


def _all(self: Any, initialized_only: bool = False) -> list[Any]:
    """Django's. It is called three times in each request."""
    if not initialized_only or self._connections is not _connections or _get_running_loop():
        # With no more than the caller has given: others may have put something else there.
        arguments = (initialized_only,) if initialized_only else ()
        return list(super(ConnectionHandler, self).all(*arguments))
    if not fork.noticed[0]:
        fork.notice()
    if _unpooled:
        _pool_what_is_free()
    mine, found = _storage.__dict__, []
    if mine:
        for alias in self.settings:
            if alias in mine:
                found.append(mine[alias])
    return found


def patch() -> None:
    """Pool the connections of every alias in DATABASES, from now on, in this process and its forks.

    Calling it again changes nothing. Raises ImproperlyConfigured, with nothing changed, where the
    settings of a pool are wrong. Logs once what the system checks would advise.
    """
    global _is_on
    if conf.there_are_settings():
        conf.reject(checks.settings_errors() + exporters.problems())
        checks.log_once(checks.advice())
    make_storage_local()
    _plug_in()
    units.watch()
    was_on, _is_on = _is_on, True
    _put("__getitem__", _getitem, _calling)
    # Django's asks __getitem__, and so may one that a tracer has wrapped.
    _put("all", _all, None)
    if was_on:
        return
    signals.request_started.connect(_request_started, weak=False, dispatch_uid=_UID)
    signals.request_finished.connect(_request_finished, weak=False, dispatch_uid=_UID)
    signals.setting_changed.connect(registry.setting_changed, dispatch_uid=_UID)
    if settings.configured:
        _pool_open_wrappers()


def unpatch() -> None:
    """New wrappers are Django's own again. Pooled ones work on until their thread or greenlet ends."""
    global _is_on
    _is_on = False
    for name in ("__getitem__", "all"):
        ours, before = _replaced.get(name, (None, None))
        # Else a tracer has wrapped it since.
        if ours is not None and vars(ConnectionHandler).get(name) is ours:
            if before is None:
                delattr(ConnectionHandler, name)
            else:
                setattr(ConnectionHandler, name, before)


def _put(name: str, ours: Any, calling: Callable[[Any], Any] | None) -> None:
    """Put our method in the place of Django's, or ``calling(theirs)`` in that of a tracer's that wraps it."""
    standing = getattr_static(ConnectionHandler, name)
    if type(standing) is not FunctionType or not any(standing.__globals__ is one for one in _DJANGOS):
        if calling is None or _has_ours_inside(standing):
            return
        ours = calling(standing)
    _replaced[name] = (ours, vars(ConnectionHandler).get(name))
    setattr(ConnectionHandler, name, ours)


def _has_ours_inside(function: Any) -> bool:
    while function is not None:
        if getattr(function, "__globals__", None) is globals():
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def _calling(theirs: Any) -> Any:
    """_getitem, with what stood there before: that finds the pooled wrapper then."""

    def getitem(self: Any, alias: str) -> Any:
        if alias in self.settings:
            _getitem(self, alias)
        return theirs.__get__(self, type(self))(alias)

    return getitem


# -- wrappers from before patch() -----------------------------------------------------------------


def _pool_open_wrappers() -> None:
    """Pool the wrappers, too, that this thread has used already; those in a transaction when it has ended."""
    wrappers: Any = connections.all(initialized_only=True)
    for wrapper in wrappers:
        if not isinstance(wrapper, PooledWrapper) and not conf.is_off(wrapper.settings_dict):
            _unpooled.add(weakref.ref(wrapper, _unpooled.discard))
    _pool_what_is_free()


def _pool_what_is_free() -> None:
    me = threading.get_ident()
    for ref in list(_unpooled):
        wrapper = ref()
        if wrapper is not None and wrapper._thread_ident == me and _is_free(wrapper):
            _unpooled.discard(ref)
            wrapper.__dict__.pop("wrap_database_errors", None)
            make_pooled(wrapper)


def _is_free(wrapper: Any) -> bool:
    """Whether it has no connection any more, nor a transaction (I/O: outside of one it is closed)."""
    if wrapper.in_atomic_block:
        return False
    if wrapper.connection is None:
        return True
    driver = drivers.find(getattr(wrapper, "Database", None))
    if driver is not None and driver.in_transaction(wrapper.connection):
        return False
    if wrapper.autocommit != wrapper.settings_dict["AUTOCOMMIT"]:
        return False
    try:
        wrapper.close()
    except SynchronousOnlyOperation:
        # In a running event loop Django forbids that.
        return False
    return wrapper.connection is None


# -- gevent that patches late (gunicorn --preload) ------------------------------------------------


def make_storage_local() -> None:
    """Where gevent patched threading after Django was imported, all greenlets share one wrapper.

    gunicorn --preload does that. What this greenlet has already is kept.
    """
    global _storage_is_local, _connections, _storage
    handler: Any = connections
    storage = _innermost(handler._connections)
    if green.patched("threading"):
        if type(storage) is not threading.local and not isinstance(storage, Local):
            me = threading.get_ident()
            initialized: Any = connections.all(initialized_only=True)
            mine = {wrapper.alias: wrapper for wrapper in initialized if wrapper._thread_ident == me}
            handler._connections = Local(connections.thread_critical)
            for alias, wrapper in mine.items():
                connections[alias] = wrapper
            storage = _innermost(handler._connections)
        _storage_is_local = True
    owner.use_storage(storage)
    if isinstance(storage, threading.local):
        _connections, _storage = handler._connections, storage


def _innermost(storage: Any) -> Any:
    """The threading.local inside of asgiref's storage, if there is one."""
    while hasattr(storage, "_storage"):
        storage = storage._storage
    return storage


# -- requests ---------------------------------------------------------------------------------


def _request_started(sender: Any = None, environ: Any = None, scope: Any = None, **kwargs: Any) -> None:
    if not _storage_is_local and green.patched("threading"):
        make_storage_local()
    if not serving.has_begun:
        serving.begin(sender)
    mine = owner.current()
    if environ is not None:
        request = mine.begin_request(environ.get("REQUEST_METHOD"), environ.get("PATH_INFO") or "/")
        environ["django_db_pooling.request"] = owner.RequestEnd(request)
    elif scope is not None:
        mine.begin_request(None, f"{scope.get('method')} {scope.get('path')}")
    else:
        mine.begin_request(None, None)


def _request_finished(**kwargs: Any) -> None:
    owner.current().finish_request()


def _finish_last() -> None:
    """After all other receivers: what they execute is still the request's, and given back with it."""
    signal = signals.request_finished
    if signal.receivers and _is_ours(signal.receivers[-1]):
        return
    with signal.lock:
        signal.receivers = sorted(signal.receivers, key=_is_ours)
        signal.sender_receivers_cache.clear()


def _is_ours(receiver: Any) -> bool:
    return bool(receiver[0][0] == _UID)


# -- fork, exit, and the wings --------------------------------------------------------------------


class _Wrappers:
    """In a forked child all let go of the parent's connections; at exit those of this thread give back."""

    name = "connections in use"

    def __init__(self) -> None:
        self.tasks = Tasks()

    def every_second(self) -> bool:
        _finish_last()
        if pinger.is_needed:
            upkeep.ensure_running(pinger)
        return False

    def forked(self) -> None:
        global _storage_is_local
        _storage_is_local = False
        registry.cut_off()
        for wrapper in owner.holding(registry.holders()):
            wrapper.inherit()
        # A wrapper of the parent's main thread must not be found by all greenlets, should gevent patch
        # threading in this process only: Django looks at it when a request starts, before we do.
        initialized: Any = connections.all(initialized_only=True) if settings.configured else []
        for wrapper in initialized:
            is_pooled = isinstance(wrapper, PooledWrapper)
            if is_pooled and wrapper.connection is None and not wrapper.in_atomic_block:
                del connections[wrapper.alias]

    def end(self) -> None:
        for wrapper in owner.current().holding():
            self.tasks.run(f"giving the connection to {wrapper.alias!r} back", wrapper.give_back)


_wrappers = _Wrappers()
host_watch = HostWatch(registry)


def _plug_in() -> None:
    """Have everything looked after, and what stands above the core, too."""
    # In this order: in a fork the wrappers have to find what the registry gives up then. At exit they give
    # back before the pools close.
    upkeep.add(_wrappers)
    upkeep.add(serving)
    upkeep.add(registry)
    upkeep.add(agent)
    upkeep.add(host_watch, own_thread=True)
    upkeep.add(pinger, own_thread=True)
    registry.on_new_pool[:] = [
        ("joining a pause", agent.join_pauses),
        ("starting the exporters", exporters.start),
        ("looking up the servers' addresses", partial(upkeep.ensure_running, host_watch)),
        ("checking the settings", _advise),
        ("being the last to know of the end of a request", _finish_last),
        ("being told of the end of a worker process", upkeep.end_with_worker),
    ]
    # A site without metrics is better than none.
    registry.tasks.run("starting the exporters", exporters.start)


def _advise() -> None:
    # Not only in patch(): that may be called before the applications connect their receivers.
    checks.log_once(checks.process_errors() + checks.receiver_warnings() + checks.unpatched_gevent())
    if green.patched("socket"):
        # Nor was gevent there, if a process patched itself after a fork.
        checks.log_once(checks.advice())
