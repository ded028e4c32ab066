"""TCP keepalive: a network or a host that is gone without a word is noticed, also in the middle of a wait."""

from __future__ import annotations

import _socket
import contextlib
from collections.abc import Iterable
from functools import partial

from django_db_pooling.drivers.sockets import on_socket

# Seconds between probes, and how many of them may stay without an answer.
INTERVAL = 10
PROBES = 6
# libpq's own, https://www.postgresql.org/docs/current/libpq-connect.html: whoever gives one of them, decides.
_LIBPQ = ("keepalives", "tcp_user_timeout")


def keep_alive(fd: int, idle: float, params: Iterable[str]) -> None:
    """Have the system probe the other side of a TCP connection when nothing has come for ``idle`` seconds.

    After ``PROBES`` of them without an answer, or when something sent isn't acknowledged for as long as all
    that takes, what waits for the other side fails. ``params``: names of the connection's parameters.
    """
    if any(name.startswith(_LIBPQ) for name in params):
        return
    on_socket(fd, partial(_keep_alive, seconds=max(1, int(idle))))


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
