"""What is done to a driver's socket, which is known by its descriptor only."""

from __future__ import annotations

import _socket
import contextlib
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from django_db_pooling.process import green

# Keepalive probes: seconds between two of them, and how many may stay without an answer.
INTERVAL = 10
PROBES = 6
# Bytes that nobody wants are read in pieces of this size.
CHUNK = 1 << 16
# libpq's own parameters, https://www.postgresql.org/docs/current/libpq-connect.html: the user's choice
# comes first.
_LIBPQ = ("keepalives", "tcp_user_timeout")


def shut_down(fd: int | None) -> None:
    """End the conversation in both directions. Nothing is sent, not even TLS's goodbye."""
    if fd is not None:
        with contextlib.suppress(OSError):
            _on_socket(fd, lambda handle: handle.shutdown(_socket.SHUT_RDWR))


def local_port(fd: int) -> int:
    """The client's, as servers see it where nothing is in between; -1 for a UNIX socket."""
    found: list[Any] = []
    _on_socket(fd, lambda handle: found.append(handle.getsockname()))
    return found[0][1] if isinstance(found[0], tuple) else -1


def wait_for_end(fd: int, seconds: float) -> None:
    """Say that nothing more comes from here, and read on until the other side has closed, too: in a native
    thread. ``fd``: a duplicate of one's own.
    """
    with contextlib.suppress(OSError):
        _on_socket(fd, partial(_read_to_end, until=time.monotonic() + seconds))


def _read_to_end(handle: _socket.socket, until: float) -> None:
    handle.shutdown(_socket.SHUT_WR)
    while (left := until - time.monotonic()) > 0:
        green.native_wait(handle.fileno(), left)
        try:
            if not handle.recv(CHUNK, _socket.MSG_DONTWAIT):
                return
        except BlockingIOError:
            continue


def keep_alive(fd: int, idle: float, params: Iterable[str]) -> None:
    """Let the system notice that a network or a host is gone, also while a statement waits for its answer.

    The other side is probed when nothing has come for ``idle`` seconds. After ``PROBES`` probes without
    an answer, or when data isn't acknowledged for as long as all that takes, reads fail. ``params``: names
    of the connection's parameters. Does nothing where the socket isn't TCP's.
    """
    if not any(name.startswith(_LIBPQ) for name in params):
        _on_socket(fd, partial(_keep_alive, seconds=max(1, int(idle))))


def _keep_alive(handle: _socket.socket, seconds: int) -> None:
    if handle.family not in (_socket.AF_INET, _socket.AF_INET6):
        return
    handle.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", seconds),
        ("TCP_KEEPINTVL", INTERVAL),
        ("TCP_KEEPCNT", PROBES),
        ("TCP_USER_TIMEOUT", 1000 * (seconds + INTERVAL * PROBES)),
    ):
        # Not every system has all of them.
        with contextlib.suppress(AttributeError, OSError):
            handle.setsockopt(_socket.IPPROTO_TCP, getattr(_socket, name), value)


def _on_socket(fd: int, function: Callable[[_socket.socket], object]) -> None:
    """Call a function with this socket, which stays the driver's: nothing here closes it.

    It is of the plain type, so that neither gevent nor TLS is involved.
    """
    # A socket object closes its descriptor when it is collected, also where a signal handler raises in
    # here. By then the number could be another connection's. So it gets the descriptor only inside of the
    # try whose end takes it away again.
    handle = _socket.socket.__new__(_socket.socket)
    try:
        _socket.socket.__init__(handle, fileno=fd)
        function(handle)
    finally:
        handle.detach()
