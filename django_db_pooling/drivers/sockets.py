"""A driver's socket, known by its descriptor only."""

from __future__ import annotations

import _socket
from collections.abc import Callable


def on_socket(fd: int, function: Callable[[_socket.socket], object]) -> None:
    """Call a function with this socket, which stays the driver's: nothing here closes it.

    It is of the plain type: neither gevent's nor TLS's has a say.
    """
    # It gets the descriptor only where it is sure to lose it again: what has one closes it when it goes, also
    # where a signal's handler raises, and by the driver's next use the number could be somebody else's.
    handle = _socket.socket.__new__(_socket.socket)
    try:
        _socket.socket.__init__(handle, fileno=fd)
        function(handle)
    finally:
        handle.detach()
