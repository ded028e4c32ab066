"""What the pool and the wrapper need to know of a driver. No I/O, unless a docstring says so."""

from __future__ import annotations

import copy
import gc
import math
import os
import select
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from django_db_pooling.drivers import sockets
from django_db_pooling.drivers.rules import UNWRITTEN, Rules
from django_db_pooling.pool.slot import Slot
from django_db_pooling.process import green

# POLLRDHUP is not on every system. Where it is missing, a closed connection looks unread and gets a ping.
_HUNG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR | select.POLLNVAL

_INTERESTING = select.POLLIN | getattr(select, "POLLRDHUP", 0)


def passed_through(error: BaseException) -> Iterator[CodeType]:
    """The functions that an exception has left, outermost first."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_code
        trace = trace.tb_next


def _copied(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, dict | list) else value


class Socketed:
    """What the pool asks, of connections over a TCP or UNIX socket."""

    # See pool/driver.py, as is_executing() and end().
    can_end = False
    ends_elsewhere = False

    # Connections only work in the hub that opened them, where gevent patches sockets.
    hub: Callable[[], object] = staticmethod(green.hub_of_sockets)

    def alive(self, connection: Any) -> bool | None:
        """False: closed by the server. None: something unread is there, only a ping can tell."""
        fd = self.fileno(connection)
        if fd is None:
            return False
        # The original poll: gevent's yields to the hub.
        poller = green.original("select", "poll")()
        try:
            poller.register(fd, _INTERESTING)
            ready = poller.poll(0)
        except (OSError, ValueError):
            return False
        if not ready:
            return True
        return False if ready[0][1] & _HUNG_UP else None

    def cut(self, connection: Any) -> None:
        """End the conversation for whoever waits for an answer now, in another thread or greenlet."""
        sockets.shut_down(self.fileno(connection))

    def drop(self, connection: Any) -> None:
        """Cut the connection: the server sees its end at once, also where others refer to the object."""
        sockets.shut_down(self.fileno(connection))
        self.disconnect(connection)

    def close(self, connection: Any, close_wait: float) -> None:
        """Close as the protocol wants it (I/O), then wait up to ``close_wait`` seconds for the server."""
        fd = self.fileno(connection)
        duplicate = os.dup(fd) if close_wait and fd is not None else None
        try:
            self.disconnect(connection)
            if duplicate is not None:
                green.cooperative_wait(duplicate, close_wait)
        finally:
            if duplicate is not None:
                os.close(duplicate)

    def is_executing(self, connection: Any, error: BaseException | None) -> bool:
        """Whether the server may be executing something. ``error``: by which its user has given it up."""
        return False

    def end(self, connections: list[Any], seconds: float) -> None:
        """Have the server end that, and the sessions (I/O). Called in a native thread, under gevent, too."""

    def fileno(self, connection: Any) -> int | None:
        """The socket's descriptor, None when it is closed."""
        raise NotImplementedError

    def disconnect(self, connection: Any) -> None:
        """The driver's own close(), where it isn't closed yet. It tells the server, if the socket is open."""
        connection.close()


class Driver(Socketed):
    """What the pool and the wrapper ask. Subclasses say which driver that is."""

    # Classes that come between the pooled wrapper and the backend's own, first one first.
    mixins: tuple[type, ...] = ()
    # What statements do to a session, by their text. Without rules each one counts as changing it.
    rules: Rules = UNWRITTEN
    # Attributes in which Django's wrapper caches what it learned of the server while connecting.
    learned: tuple[str, ...] = ()
    # Attributes of a connection by which its user can have it work in another way.
    told: tuple[str, ...] = ()
    # Whether in_transaction() of a broken connection says how it was before that.
    remembers_transaction = False
    # Whether session_changed() knows more than the statement's text tells.
    reports_session_changes = False
    # Where False, atomic() has no effect.
    has_transactions = True
    # The default of SCOPE.
    scope = "request"

    def broken(self, connection: Any) -> bool:
        """Whether the driver has given the connection up."""
        return self.fileno(connection) is None

    def server_away(self, error: BaseException) -> bool:
        """Whether connecting has failed because there is no server, or it accepts nobody at the moment."""
        return False

    def login_refused(self, error: BaseException) -> bool:
        """Whether it has failed because the server doesn't take this user or password."""
        return False

    def server_full(self, error: BaseException) -> bool:
        """Whether it has failed because the server has as many connections as it allows."""
        return False

    def unfit(self, connection: Any, error: Any) -> str | None:
        """What can't be used any more after this error of the database's: one of the names in errors.py."""
        return None

    def takes_writes(self, connection: Any) -> bool | None:
        """Whether the server took writes when it was opened, or takes them now; None: not known."""
        return None

    def interrupted(self, connection: Any, error: BaseException) -> bool:
        """Whether an exception that isn't the database's may have left an answer unread."""
        return self.unread(connection)

    def usable(self, connection: Any, ask: Callable[[], bool], seconds: float | None) -> bool:
        """Whether the server answers (I/O), in time if the driver can. ``ask``: Django's ``is_usable``."""
        return ask()

    def rollback(self, connection: Any, seconds: float | None) -> None:
        """End a transaction however it was begun (I/O), in time if the driver can. Raises its errors."""
        connection.rollback()

    def reset(self, connection: Any, seconds: float | None) -> bool:
        """Reset the session (I/O) to what it was after connecting, outside of a transaction.

        False if this can't be done. Raises the driver's errors.
        """
        return False

    def in_transaction(self, connection: Any) -> bool | None:
        """Whether a transaction is open; None where the driver can't know."""
        raise NotImplementedError

    def unread(self, connection: Any) -> bool:
        """Whether part of a result is still to come."""
        return False

    def is_clean(self, connection: Any) -> bool:
        """Whether it is certainly open, read to the end, and in no transaction: there is nothing to clean."""
        return (
            self.in_transaction(connection) is False
            and not self.broken(connection)
            and not self.unread(connection)
        )

    def detach_cursor(self, cursor: Any) -> bool:
        """Separate a cursor that outlives its checkout from its connection. False if that can't be reused."""
        cursor.close()
        return True

    def text(self, sql: Any, connection: Any) -> str:
        """Of a statement that is no ``str``. Raises anything where it can't be read."""
        return bytes(memoryview(sql)).decode(errors="replace")

    def is_closed(self, cursor: Any) -> bool:
        """Whether a cursor is certainly closed; not every driver tells."""
        return getattr(cursor, "closed", False) is True or getattr(cursor, "connection", cursor) is None

    def references(self, cursor: Any, connection: Any) -> int:
        """How many references to its connection a closed cursor has."""
        return sum(found is connection for found in gc.get_referents(cursor))

    def session_changed(self, connection: Any) -> bool:
        """Whether the server says that the last statement has changed its session."""
        return False

    def open(self, slot: Slot, make: Callable[[], Any], seconds: float | None) -> None:
        """Connect (I/O): put what ``make`` returns into the slot, in time if the driver can."""
        slot.connection = make()

    def adapt(self, params: dict[str, Any], seconds: float | None) -> None:
        """Change connection parameters so that connecting takes no longer than this."""
        if seconds is not None:
            most = max(1, math.ceil(seconds))
            params["connect_timeout"] = min(int(params.get("connect_timeout") or most), most)

    def label(self, params: dict[str, Any], label: str) -> None:
        """Change connection parameters so that the server shows this, where they don't name the session."""

    def connected(self, connection: Any, params: dict[str, Any], asks: bool = True) -> None:
        """Called when a connection is open and initialised (I/O). ``params``: as before adapt().

        ``asks``: whether the server may be asked and told what the user has not.
        """

    def settings(self, connection: Any) -> object:
        """What its user may have told the driver's object, to be compared with ``==``."""
        return [_copied(getattr(connection, name, None)) for name in self.told]

    def server_timeout(self, connection: Any) -> float:
        """After how many idle seconds the server closes a connection (I/O)."""
        return math.inf

    def advice(self) -> str | None:
        """What stops this driver from working well in this process, with the remedy."""
        return None
