"""What is different where gevent has patched this process. Never imports gevent by itself."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from typing import Any


def patched(module: str) -> bool:
    """Whether gevent's monkey patching has replaced this standard module."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched(module))


def original(module: str, name: str) -> Any:
    """A standard function as it was before gevent patched it, if it did."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return getattr(sys.modules[module], name)
    return monkey.get_original(module, name)


def hub_of_this_thread() -> Any:
    """gevent's hub of this native thread: what its patched sockets are bound to."""
    return sys.modules["gevent"].get_hub()


def in_thread_of(hub: Any, function: Callable[[], Any]) -> None:
    """Call a function that touches a hub's sockets: now if they are ours, else in its own thread.

    The loop of a thread that has ended is gone, and so is what could be touched by mistake.
    """
    loop = None if hub is None or hub is hub_of_this_thread() else hub.loop
    if loop is None:
        function()
    else:
        loop.run_callback_threadsafe(function)


def cooperative_wait(fd: int, seconds: float) -> None:
    """Wait until something can be read, letting other greenlets run where there are any."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    poller.poll(seconds * 1000)
