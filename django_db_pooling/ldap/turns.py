"""Whoever has a connection comes first: gevent's hub goes on with them before it goes on with others.

While callers wait for connections, what counts is for how long each connection has nothing to do: from when
its answer is there until it is read, and from then until the next caller has sent a request. So who has just
given one back, and goes on with work that needs none, lets the hub read the answers that are there first.
"""

from __future__ import annotations

import contextlib
import select
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from django_db_pooling.pool.waiter import Waiter
from django_db_pooling.process import green

# Of libev: what is ready is handled in this order. libuv has none.
_FIRST = 2
# Whose turn it is is looked at so often (seconds), whatever was interrupted.
RECHECK_INTERVAL = 0.05


class _Turn:
    """A greenlet that waits to be woken; None: it doesn't any more."""

    __slots__ = ("asleep",)

    def __init__(self, greenlet: Any) -> None:
        self.asleep = greenlet


class _Turns:
    """Of one hub: each time it has been round to look for answers, one of those who wait goes on.

    Whatever interrupts a call of this, nobody is woken who doesn't wait any more, and nobody sleeps for good.
    """

    def __init__(self, hub: Any) -> None:
        self.hub = hub
        self._getcurrent: Callable[[], Any] = sys.modules["greenlet"].getcurrent
        self._waiting: deque[_Turn] = deque()
        self._timer = hub.loop.timer(0.0)
        # It goes on by itself while anybody waits: a call that starts the other one may be interrupted.
        self._recheck = hub.loop.timer(RECHECK_INTERVAL, RECHECK_INTERVAL)
        # Who waits for an answer, by the descriptor. The original poll: gevent's yields to the hub.
        self._readers: dict[int, _Turn] = {}
        self._poller = green.original("select", "poll")()

    def wait(self, goes_first: Any) -> None:
        """``goes_first``: the greenlet to go on with at once; None: whatever the hub has."""
        current = self._getcurrent()
        if current is self.hub:
            return
        turn = _Turn(current)
        try:
            self._waiting.append(turn)
            if not self._recheck.active:
                self._recheck.start(self._next)
            if not self._timer.active:
                self._timer.start(self._next)
            (goes_first or self.hub).switch()
        finally:
            turn.asleep = None

    def _next(self) -> None:
        """Called in the hub."""
        waiting = self._waiting
        while waiting and waiting[0].asleep is None:
            waiting.popleft()
        if not waiting:
            self._recheck.stop()
            return
        # The one that goes on now is removed the next time.
        self._timer.start(self._next)
        waiting[0].asleep.switch()

    def wait_for_answer(self, descriptor: int, seconds: float) -> None:
        turn = _Turn(self._getcurrent())
        ready = self.hub.loop.io(descriptor, 1, True, _FIRST)
        late = self.hub.loop.timer(seconds)
        try:
            self._readers[descriptor] = turn
            self._poller.register(descriptor, select.POLLIN)
            ready.start(_wake, turn, ready)
            late.start(_wake, turn, late)
            self.hub.switch()
        finally:
            turn.asleep = None
            ready.stop()
            late.stop()
            ready.close()
            late.close()
            self._forget(descriptor)

    def reader(self) -> Any:
        """A greenlet whose answer is there; None: there is none."""
        if self._readers:
            for descriptor, _ in self._poller.poll(0):
                turn = self._readers.get(descriptor)
                if turn is not None and turn.asleep is not None:
                    return turn.asleep
                self._forget(descriptor)
        return None

    def _forget(self, descriptor: int) -> None:
        self._readers.pop(descriptor, None)
        with contextlib.suppress(KeyError):
            self._poller.unregister(descriptor)


def _wake(turn: _Turn, watcher: Any) -> None:
    """Called in the hub."""
    if turn.asleep is None:
        # What should have stopped it was interrupted.
        watcher.stop()
    else:
        turn.asleep.switch()


_local: Any = None


def _here() -> _Turns:
    """Of this thread's hub."""
    global _local
    if _local is None:
        # Of native threads, and gone with them, whatever gevent has patched.
        _local = green.original("_thread", "_local")()
    hub = green.hub_of_this_thread()
    turns: _Turns | None = getattr(_local, "turns", None)
    if turns is None or turns.hub is not hub:
        turns = _local.turns = _Turns(hub)
    return turns


def give_way(waiter: Waiter) -> None:
    """Let greenlets that have connections go on first, before all ``waiter``, where it has just been served.

    Does nothing in native threads.
    """
    if green.patched("select"):
        turns = _here()
        is_served = waiter.outcome is not None and getattr(waiter.sleepers, "hub", None) is turns.hub
        turns.wait(waiter.asleep if is_served else None)


def let_reader_go_first() -> None:
    """Called by who is about to ask for a connection: an answer may be there that somebody waits for, and
    gevent's hub looks for them only when all is done that was ready the last time.
    """
    if green.patched("select"):
        turns = _here()
        reader = turns.reader()
        if reader is not None:
            turns.wait(reader)


def wait_for_answer(descriptor: int, seconds: float) -> None:
    """Until something can be read, for so long at most; it may return earlier. Under gevent other greenlets
    run meanwhile, but this one comes before those that are ready at the same time.
    """
    if green.patched("select"):
        _here().wait_for_answer(descriptor, seconds)
    else:
        green.cooperative_wait(descriptor, seconds)
