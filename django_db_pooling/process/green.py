"""What is different where gevent has patched this process. Never imports gevent by itself."""

from __future__ import annotations

import contextlib
import functools
import select
import sys
from collections.abc import Callable
from typing import Any

_patched: set[str] = set()
# gevent's, once it is known that gevent has patched sockets.
_get_hub: Callable[[], Any] | None = None


def patched(module: str) -> bool:
    """Whether gevent's monkey patching has replaced this standard module: once it has, for good."""
    if module not in _patched:
        is_patched = _of_gevents_monkey("is_module_patched")
        if is_patched is None or not is_patched(module):
            return False
        _patched.add(module)
    return True


def is_unpatched() -> bool:
    """Whether one of gevent's greenlets runs this, but gevent has patched no sockets."""
    kind = getattr(sys.modules.get("gevent"), "Greenlet", None)
    if kind is None or patched("socket"):
        return False
    return isinstance(sys.modules["greenlet"].getcurrent(), kind)


def eventlet_has_patched() -> bool:
    """Whether eventlet's monkey patching has taken poll() away, or native threads and sockets."""
    is_patched = getattr(sys.modules.get("eventlet.patcher"), "is_monkey_patched", None)
    return is_patched is not None and any(map(is_patched, ("select", "socket", "thread")))


@functools.cache
def original(module: str, name: str) -> Any:
    """A standard function as it was before gevent patched it, if it did."""
    get_original = _of_gevents_monkey("get_original")
    if get_original is None:
        return getattr(sys.modules[module], name)
    return get_original(module, name)


def _of_gevents_monkey(name: str) -> Any:
    """None as long as gevent.monkey isn't imported: another thread may be at it."""
    return getattr(sys.modules.get("gevent.monkey"), name, None)


def hub_of_sockets() -> Any:
    """The hub in which a socket that is made now works; None where gevent hasn't patched them."""
    global _get_hub
    if _get_hub is None:
        if not patched("socket"):
            return None
        _get_hub = sys.modules["gevent"].get_hub
    return _get_hub()


def hub_of_threads() -> Any:
    """The hub in which a thread that is started now runs; None where gevent hasn't patched them."""
    return hub_of_this_thread() if patched("threading") else None


def hub_of_this_thread() -> Any:
    """gevent's hub of this native thread: what its patched sockets are bound to."""
    return sys.modules["gevent"].get_hub()


def has_ended(hub: Any) -> bool:
    """Whether its native thread has, or it was destroyed: none of its greenlets runs again."""
    return hub.loop is None or hub.dead


def current() -> Any:
    """The greenlet that runs; None where gevent hasn't patched threads."""
    return sys.modules["greenlet"].getcurrent() if patched("threading") else None


def in_thread_of(hub: Any, function: Callable[[], Any]) -> None:
    """Call a function that touches a hub's sockets: now if they are ours, else in its own thread.

    The loop of a thread that has ended is gone, and so is what could be touched by mistake.
    """
    loop = None if hub is None or hub is hub_of_this_thread() else hub.loop
    if loop is None:
        function()
    else:
        loop.run_callback_threadsafe(function)


def start_native(function: Callable[[], object]) -> None:
    """Call it in a native thread, also where gevent has patched. Doesn't switch; callable in finalizers.

    Raises RuntimeError where there can't be one.
    """
    original("_thread", "start_new_thread")(_run_natively, (function,))


def _run_natively(function: Callable[[], object]) -> None:
    try:
        function()
    finally:
        # What is patched has made one for this thread, if it was used.
        found = sys.modules.get("gevent._hub_local")
        hub = None if found is None else found.get_hub_if_exists()
        if hub is not None:
            hub.destroy(destroy_loop=True)


def cooperative_wait(fd: int, seconds: float) -> None:
    """Wait until something can be read, letting other greenlets run where there are any."""
    sockets = sys.modules.get("gevent.socket") if patched("select") else None
    if sockets is not None:
        # At a fraction of the price of gevent's poll().
        with contextlib.suppress(TimeoutError):
            sockets.wait_read(fd, seconds)
        return
    native_wait(fd, seconds)


def native_wait(fd: int, seconds: float) -> None:
    """The same for a native thread without greenlets, whatever gevent has patched."""
    poller = original("select", "poll")()
    poller.register(fd, select.POLLIN)
    poller.poll(seconds * 1000)
