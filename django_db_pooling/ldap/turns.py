"""Whoever has a connection comes first: gevent's hub goes on with them before it goes on with others.

While callers wait for connections, what counts is for how long each connection has nothing to do: from when
its answer is there until it is read, and from then until the next caller has sent a request. So who has just
given one back, and goes on with work that needs none, lets the hub read the answers that are there first.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from django_db_pooling.pool.waiter import Waiter
from django_db_pooling.process import green


class _Turn:
    """Of a greenlet that waits for it; None: it doesn't any more."""

    __slots__ = ("asleep",)

    def __init__(self, greenlet: Any) -> None:
        self.asleep = greenlet


class _Turns:
    """Of one hub: one greenlet each time the hub has been round to look for answers."""

    def __init__(self, hub: Any) -> None:
        self.hub = hub
        self._getcurrent: Callable[[], Any] = sys.modules["greenlet"].getcurrent
        self._waiting: deque[_Turn] = deque()
        self._timer = hub.loop.timer(0.0)

    def wait(self, goes_first: Any) -> None:
        """``goes_first``: the greenlet to go on with at once; None: whatever the hub has."""
        current = self._getcurrent()
        if current is self.hub:
            return
        turn = _Turn(current)
        try:
            self._waiting.append(turn)
            if not self._timer.active:
                self._timer.start(self._next)
            (goes_first or self.hub).switch()
        finally:
            turn.asleep = None

    def _next(self) -> None:
        """Called in the hub."""
        waiting = self._waiting
        greenlet = None
        while waiting and greenlet is None:
            greenlet = waiting.popleft().asleep
        if waiting:
            self._timer.start(self._next)
        if greenlet is not None:
            greenlet.switch()


_local: Any = None


def give_way(waiter: Waiter) -> None:
    """Let greenlets that have connections go on first, before all ``waiter``, where it has just been served.

    Does nothing in native threads.
    """
    global _local
    if not green.patched("threading"):
        return
    if _local is None:
        # Of native threads, and gone with them, whatever gevent has patched.
        _local = green.original("_thread", "_local")()
    hub = green.hub_of_this_thread()
    turns = getattr(_local, "turns", None)
    if turns is None or turns.hub is not hub:
        turns = _local.turns = _Turns(hub)
    is_served = waiter.outcome is not None and getattr(waiter.sleepers, "hub", None) is hub
    turns.wait(waiter.asleep if is_served else None)


# Of libev: what is ready is handled in this order. libuv has none.
_FIRST = 2


def wait_for_answer(descriptor: int, seconds: float) -> None:
    """Until something can be read, for so long at most; it may return earlier. Under gevent other greenlets
    run meanwhile, but this one comes before those that are ready at the same time.
    """
    if not green.patched("select"):
        green.cooperative_wait(descriptor, seconds)
        return
    hub = green.hub_of_this_thread()
    switch = sys.modules["greenlet"].getcurrent().switch
    ready = hub.loop.io(descriptor, 1, True, _FIRST)
    late = hub.loop.timer(seconds)
    try:
        ready.start(switch)
        late.start(switch)
        hub.switch()
    finally:
        ready.stop()
        late.stop()
        ready.close()
        late.close()
