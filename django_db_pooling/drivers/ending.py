"""How a server is told to end what it executes for a connection that was given up: I/O, in native threads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from django_db_pooling.drivers import sockets
from django_db_pooling.process import green

# Executes a statement; its rows.
Execute = Callable[[str], Iterable[tuple[Any, ...]]]

# Of MySQL and MariaDB: the session has ended.
NO_SUCH_THREAD = 1094
# Where its session isn't known.
UNKNOWN = "it isn't known which session executes it"
# Seconds between two looks whether sessions have ended, and for how long: a rollback may take longer.
LOOK_AGAIN, MOST_LOOKS = 0.005, 0.1


def by_cancel(fd: int | None, cancel: Callable[[], object], seconds: float) -> None:
    """PostgreSQL: send the request, then wait for the end of the session. The connection must be open until
    the request is answered: else a proxy in between would not know any more whom it means.
    """
    if fd is None:
        return
    until = time.monotonic() + seconds
    # Of our own: meanwhile somebody may find that this takes too long, and close the connection.
    duplicate = os.dup(fd)
    try:
        cancel()
        sockets.wait_for_end(duplicate, until - time.monotonic())
    finally:
        os.close(duplicate)


class Session(NamedTuple):
    """One of MySQL or MariaDB, as it described itself when it was opened, ``at`` of ``time.monotonic()``.

    Its number means another session at another server, and at this one after a restart.
    """

    number: int
    server: tuple[Any, ...]
    at: float


# What tells a server from others: nodes of Galera may all have one id, processes on one host all one name.
SESSION = "CONNECTION_ID(), @@hostname, @@port, @@server_id"


def session(words: Sequence[Any], greeted: int) -> Session | None:
    """``words``: the answer to ``SESSION``. ``greeted``: the number that the server gave at first; None where
    something in between has sessions of its own, and numbers that mean nothing to the server.
    """
    if len(words) != 4 or not isinstance(words[0], int) or (words[0] ^ greeted) & 0xFFFFFFFF:
        return None
    return Session(words[0], tuple(words[1:]), time.monotonic())


def by_kill(execute: Execute, sessions: list[Session], seconds: float) -> None:
    """MySQL and MariaDB: from another connection, if that leads to the same server. Raises RuntimeError where
    it doesn't.
    """
    now = time.monotonic()
    until = now + min(seconds, MOST_LOOKS)
    _, *server = next(iter(execute(f"SELECT {SESSION}")))
    uptime = int(next(iter(execute("SHOW GLOBAL STATUS LIKE 'Uptime'")))[1])
    left = [one for one in sessions if one.server == tuple(server) and now - one.at <= uptime]
    are_others = len(left) < len(sessions)
    while left:
        left = [one for one in left if _kill(execute, one.number)]
        if time.monotonic() >= until:
            break
        if left:
            green.original("time", "sleep")(LOOK_AGAIN)
    if are_others:
        raise RuntimeError("another server answers than the one that executes the statement")


def _kill(execute: Execute, number: int) -> bool:
    """Whether the session was still there."""
    try:
        execute(f"KILL {number}")
    except Exception as error:
        if error.args and error.args[0] == NO_SUCH_THREAD:
            return False
        raise
    return True
