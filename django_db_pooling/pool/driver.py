"""What a pool needs to know about its connections."""

from __future__ import annotations

from typing import Any, Protocol

from django_db_pooling.process.wakeup import Wakeup


class Driver(Protocol):
    """Only ``close`` may talk to the server."""

    # Whether ``close`` works in any thread or greenlet; otherwise only where the affinity is the same.
    closes_anywhere: bool

    def hub(self) -> object:
        """A key: this caller can use only connections opened under the same key, gevent's hub for example."""

    def wakeup(self) -> Wakeup:
        """What a caller of this thread or greenlet sleeps on."""

    def alive(self, connection: Any) -> bool | None:
        """True, False, or None where only a question to the server could tell."""

    def drop(self, connection: Any) -> None:
        """Close it without a word to the server."""

    def close(self, connection: Any, close_wait: float) -> None:
        """Say goodbye, and wait up to ``close_wait`` seconds for the server to have closed, too."""
