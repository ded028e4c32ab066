"""What a pool needs to know about its connections."""

from __future__ import annotations

from typing import Any, Protocol


class Driver(Protocol):
    """Only ``close`` may talk to the server."""

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
