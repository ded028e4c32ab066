"""What a pool needs to know about its connections."""

from __future__ import annotations

from typing import Any, Protocol


class Driver(Protocol):
    """Only ``close`` and ``end`` may talk to the server."""

    # Whether end() does anything.
    can_end: bool
    # Whether it uses another connection, one for many: what is to be ended is dropped before.
    ends_elsewhere: bool

    def hub(self) -> object:
        """Where connections that are opened by this caller work: gevent's hub, for example. What is opened
        in one hub can't be used in another, nor be closed there; compared with ``is``.
        """

    def alive(self, connection: Any) -> bool | None:
        """True, False, or None where only a question to the server could tell."""

    def cut(self, connection: Any) -> None:
        """Whoever waits for its server, in another thread or greenlet, gets an error now."""

    def drop(self, connection: Any) -> None:
        """Close it without a word to the server."""

    def close(self, connection: Any, close_wait: float) -> None:
        """Say goodbye, and wait up to ``close_wait`` seconds for the server to have closed, too."""

    def is_executing(self, connection: Any, error: BaseException | None) -> bool:
        """Whether the server may be executing something for it. ``error``: by which its user has given up."""

    def end(self, connections: list[Any], seconds: float) -> None:
        """Have the server end what it executes for them, and their sessions; wait for that until ``seconds``
        are over. Called in a native thread.
        """
