"""Ends attempts to connect that hang in libldap, from outside: their sockets are shut down.

Nothing limits libldap's TLS handshake, and it tells nobody its socket before that is over: the connection's
object is locked until then. So each try carries a mark that is found on its socket: libldap sets the times
between keepalive probes before it connects, and we choose them at random (for the duration of the try, in
which no probe is due). Whatever else has sockets to the same server, another try or a good connection, has
another mark or none.

One native thread looks after all that are under way, while there are any. Where descriptors can't be listed,
or an attempt hangs in something else, a name server for example, it is freed some seconds later, and goes on
uncounted; only so many may at the same time.
"""

from __future__ import annotations

import _socket
import contextlib
import math
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Protocol, TypeVar

from django_db_pooling.process import fork, green

# Seconds between two keepalive probes, from which marks are made. Linux takes no more than the last one.
MARK_SECONDS = range(10_000, 32_768)
# Seconds between looks at those that should end, and at whether any are left.
LOOK_EVERY = 0.1
# An attempt that could not be ended is freed after so many seconds, unless so many of them still go on.
FREE_AFTER = 5.0
MAX_FREED = 8

# Linux has these options; where they are missing no try has a mark.
CAN_MARK = hasattr(_socket, "TCP_KEEPIDLE") and hasattr(_socket, "TCP_KEEPINTVL")
# Lists the descriptors of this process.
DESCRIPTORS = "/proc/self/fd"

T = TypeVar("T")

# Seconds before the first keepalive probe of an idle socket, and between two of them.
Mark = tuple[int, int]


class Step:
    """A try to connect to one server. ``mark``: of its socket. ``has_ended``: it was ended from outside."""

    __slots__ = ("has_ended", "mark", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.has_ended = False
        self.mark: Mark | None = None
        if CAN_MARK:
            self.mark = (secrets.choice(MARK_SECONDS), secrets.choice(MARK_SECONDS))


class Ending(Protocol):
    """An attempt, as far as this file knows it."""

    until: float
    step: Step | None

    def free(self) -> bool: ...


class _Threads:
    """Of this process."""

    def __init__(self) -> None:
        make_lock = green.original("_thread", "allocate_lock")
        self.lock = make_lock()
        # The watching thread sleeps on it.
        self.bell = make_lock()
        self.is_watched = False
        # Native threads add and remove themselves.
        self.attempts: dict[Ending, None] = {}
        # Those that are over for everybody else.
        self.freed: dict[Ending, None] = {}
        self.of_this_thread = green.original("_thread", "_local")()


_threads = _Threads()


def begin(attempt: Ending) -> None:
    """In the attempt's thread: it begins."""
    threads = _threads
    threads.of_this_thread.attempt = attempt
    with threads.lock:
        threads.attempts[attempt] = None
        if threads.is_watched:
            return
        threads.is_watched = True
    try:
        green.original("_thread", "start_new_thread")(_watch, (threads,))
    except RuntimeError:
        # No more threads: the next one tries again.
        threads.is_watched = False


def end(attempt: Ending) -> None:
    """In the attempt's thread: it is over."""
    threads = _threads
    threads.of_this_thread.attempt = None
    with threads.lock:
        threads.attempts.pop(attempt, None)
        threads.freed.pop(attempt, None)
        if threads.attempts or not threads.bell.locked():
            return
    # A thread that isn't there does no harm to a fork.
    with contextlib.suppress(RuntimeError):
        threads.bell.release()


@contextlib.contextmanager
def limited(seconds: float | None) -> Iterator[Step | None]:
    """Around a try to connect, in an attempt's thread: it is ended after so many seconds, None: with the
    attempt. Gives None outside of attempts.
    """
    attempt: Ending | None = getattr(_threads.of_this_thread, "attempt", None)
    if attempt is None:
        yield None
        return
    until = math.inf if seconds is None else time.monotonic() + seconds
    step = attempt.step = Step(min(until, attempt.until))
    try:
        yield step
    finally:
        attempt.step = None


def is_given_up() -> bool:
    """Whether nobody waits for the attempt of this thread any more."""
    attempt: Ending | None = getattr(_threads.of_this_thread, "attempt", None)
    return attempt is not None and time.monotonic() >= attempt.until


def _watch(threads: _Threads) -> None:
    while True:
        threads.bell.acquire(blocking=False)
        with threads.lock:
            attempts = list(threads.attempts)
            if not attempts:
                threads.is_watched = False
                return
        threads.bell.acquire(timeout=_look_after(attempts, threads))


def _look_after(attempts: Collection[Ending], threads: _Threads) -> float:
    """End what should end. Seconds until the next look."""
    now, seconds = time.monotonic(), LOOK_EVERY
    due = set()
    for attempt in attempts:
        step = attempt.step
        left = min(attempt.until, math.inf if step is None else step.until) - now
        if left > 0:
            seconds = min(seconds, left)
        elif step is not None:
            # Before it is shut down: who takes the mark away reads this afterwards.
            step.has_ended = True
            if step.mark is not None:
                due.add(step.mark)
        if now - attempt.until >= FREE_AFTER:
            _free(attempt, threads)
    if due:
        _shut_down(due)
    return seconds


def _free(attempt: Ending, threads: _Threads) -> None:
    if attempt not in threads.freed and len(threads.freed) < MAX_FREED:
        # Before that: its own end removes it.
        threads.freed[attempt] = None
        if not attempt.free():
            threads.freed.pop(attempt, None)


def _shut_down(marks: Collection[Mark]) -> None:
    """Shut down this process's sockets that have one of these marks."""
    try:
        names = os.listdir(DESCRIPTORS)
    except OSError:
        return
    for name in names:
        # Nearly all others are left alone: closing a duplicate of a file gives up the locks on it.
        if name.isdigit() and _on_socket(int(name), _mark_of) in marks:
            _shut_down_one(int(name), marks)


def _shut_down_one(descriptor: int, marks: Collection[Mark]) -> None:
    """Meanwhile the number may be another file's: only the duplicate stays what it is."""
    with contextlib.suppress(OSError):
        duplicate = os.dup(descriptor)
        try:
            if _on_socket(duplicate, _mark_of) in marks:
                _on_socket(duplicate, lambda handle: handle.shutdown(_socket.SHUT_RDWR))
        finally:
            os.close(duplicate)


def _mark_of(handle: _socket.socket) -> Mark:
    return (
        handle.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPIDLE),
        handle.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPINTVL),
    )


def set_intervals(descriptor: int, intervals: Iterable[int]) -> None:
    """Of a socket that had a mark: seconds as in a mark, 0: the system's own."""
    fresh = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    usual = _mark_of(fresh)
    fresh.close()

    def set_all(handle: _socket.socket) -> None:
        for option, seconds, default in zip(
            (_socket.TCP_KEEPIDLE, _socket.TCP_KEEPINTVL), intervals, usual, strict=True
        ):
            handle.setsockopt(_socket.IPPROTO_TCP, option, seconds if seconds > 0 else default)

    _on_socket(descriptor, set_all)


def _on_socket(descriptor: int, function: Callable[[_socket.socket], T]) -> T | None:
    """Call a function with this socket, which stays whose it is. None where that fails, as with a file.

    In native threads only, where nothing interrupts it.
    """
    try:
        handle = _socket.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        return function(handle)
    except OSError:
        # Not TCP's.
        return None
    finally:
        handle.detach()


def _after_fork() -> None:
    """The parent's attempts don't go on here, and their sockets are the parent's, too."""
    global _threads
    _threads = _Threads()


fork.in_child(_after_fork)
