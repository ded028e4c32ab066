"""What the pool and the wrapper ask a driver. Nothing here does I/O unless its docstring says so."""

from __future__ import annotations

import _socket
import contextlib
import math
import os
import select
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from django_db_pooling.drivers.sockets import on_socket
from django_db_pooling.pool.queue import Bell, ThreadBell
from django_db_pooling.pool.slots import Slot
from django_db_pooling.process import green

# Not on every system; where it is missing a closed connection is "unread" and gets a ping.
_HUNG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR | select.POLLNVAL

_INTERESTING = select.POLLIN | getattr(select, "POLLRDHUP", 0)


def passed_through(error: BaseException) -> Iterator[CodeType]:
    """The functions that an exception has left on its way up."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_code
        trace = trace.tb_next


class Driver:
    """A driver whose connections are TCP or UNIX sockets. Subclasses say where theirs is."""

    # Classes that come between the pooled wrapper and the backend's own, first one first.
    mixins: tuple[type, ...] = ()
    # Attributes that Django's wrapper finds out when it opens a connection.
    learned: tuple[str, ...] = ()
    # Whether in_transaction() still says, when a connection has died, how things were before.
    remembers = False
    # Whether session_changed() knows more than the text of a statement says.
    tells_changes = False
    # Whether there is something that an atomic block could hold together.
    has_transactions = True
    # The scope of requests where the settings don't say.
    scope = "request"

    # -- for the pool ------------------------------------------------------------------------

    def home(self) -> object:
        """Connections only work in the hub that opened them, where gevent patches sockets."""
        return green.hub_of_this_thread() if green.patched("socket") else None

    def bell(self) -> Bell:
        """What a caller sleeps on while it waits for a connection."""
        return green.HubBell() if green.patched("threading") else ThreadBell()

    def alive(self, connection: Any) -> bool | None:
        """False: closed by the server. None: something unread is there, a ping must tell."""
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

    def drop(self, connection: Any) -> None:
        """Cut the connection. The server sees its end at once, whoever still refers to the object."""
        self.shut_down(connection)
        self.forget(connection)

    def close(self, connection: Any, linger: float) -> None:
        """Say goodbye as the protocol wants it (I/O) and wait up to ``linger`` seconds for the answer."""
        fd = self.fileno(connection)
        duplicate = os.dup(fd) if linger and fd is not None else None
        try:
            self.forget(connection)
            if duplicate is not None:
                green.cooperative_wait(duplicate, linger)
        finally:
            if duplicate is not None:
                os.close(duplicate)

    # -- for the wrapper ---------------------------------------------------------------------

    def fileno(self, connection: Any) -> int | None:
        """The socket's descriptor, None when it is closed."""
        raise NotImplementedError

    def forget(self, connection: Any) -> None:
        """The driver's own close; harmless when closed already. I/O: a goodbye where the socket is open."""
        connection.close()

    def shut_down(self, connection: Any) -> None:
        fd = self.fileno(connection)
        if fd is None:
            return
        with contextlib.suppress(OSError):
            # Nothing is sent, TLS's goodbye neither.
            on_socket(fd, lambda handle: handle.shutdown(_socket.SHUT_RDWR))

    def broken(self, connection: Any) -> bool:
        """Whether the driver has given the connection up."""
        return self.fileno(connection) is None

    def server_away(self, error: BaseException) -> bool:
        """Whether connecting has failed since no server is there, or takes nobody in: in a moment it may."""
        return False

    def unfit(self, error: Any) -> bool:
        """Whether an error of the database's says that this connection is of no use to the next request."""
        return False

    def interrupted(self, connection: Any, error: BaseException) -> bool:
        """Whether an error that is none of the database's may have cut a conversation short."""
        return self.unread(connection)

    def usable(self, connection: Any, ask: Callable[[], bool], seconds: float | None) -> bool:
        """Whether the server answers (I/O), in time if the driver can. ``ask``: Django's ``is_usable``."""
        return ask()

    def rollback(self, connection: Any, seconds: float | None) -> None:
        """End a transaction however it was begun (I/O), in time if the driver can. Raises its errors."""
        connection.rollback()

    def reset(self, connection: Any, seconds: float | None) -> bool:
        """Make the session what it was when connecting had ended (I/O), outside of a transaction.

        False if this can't be done. Raises the driver's errors.
        """
        return False

    def in_transaction(self, connection: Any) -> bool | None:
        """Whether a transaction is open; None where the driver can't know."""
        raise NotImplementedError

    def unread(self, connection: Any) -> bool:
        """Whether part of a result is still to come."""
        return False

    def at_rest(self, connection: Any) -> bool:
        """Whether it is certain that it is open, read to the end, and in no transaction."""
        return (
            self.in_transaction(connection) is False
            and not self.broken(connection)
            and not self.unread(connection)
        )

    def detach(self, cursor: Any) -> bool:
        """Cut a cursor that outlived its checkout off; False if the connection can't be kept."""
        cursor.close()
        return True

    def session_changed(self, connection: Any) -> bool:
        """Whether the server says that the last statement has changed its session."""
        return False

    def open(self, slot: Slot, make: Callable[[], Any], seconds: float | None) -> None:
        """Connect (I/O): put into a slot what ``make`` returns, in time if the driver can."""
        slot.connection = make()

    def adapt(self, params: dict[str, Any], seconds: float | None) -> None:
        """Change connection parameters so that connecting takes no longer than this."""
        if seconds is not None:
            most = max(1, math.ceil(seconds))
            params["connect_timeout"] = min(int(params.get("connect_timeout") or most), most)

    def connected(self, connection: Any, params: dict[str, Any]) -> None:
        """A connection is open and initialised (I/O); ``params`` are those before adapt()."""

    def server_timeout(self, connection: Any) -> float:
        """After how many idle seconds the server closes a connection (I/O)."""
        return math.inf

    def advice(self) -> str | None:
        """What stops this driver from working well in this process, with the remedy."""
        return None
