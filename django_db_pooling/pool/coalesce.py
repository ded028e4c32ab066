"""Mutual exclusion for callers that must never block."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Coalesced:
    """Calls ``function`` so that runs never overlap, and each call is followed by a whole run.

    A lock would not do: the callers include finalizers, which can strike inside of a run in the
    same thread, and gevent's hub, which must not wait. So whoever finds a run under way leaves
    word that there is news, and the runner goes round once more.

    Each side writes before it reads: a caller leaves word before it tries for the claim, the
    runner gives the claim up before it looks for word a last time.
    """

    __slots__ = ("_claim", "_function", "_news")

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._news: deque[None] = deque()
        self._claim: dict[None, object] = {}

    @property
    def running(self) -> bool:
        """Whether somebody is at it, or is about to go round once more."""
        return bool(self._news) or bool(self._claim)

    def __call__(self) -> None:
        me = object()
        claim = self._claim
        self._news.append(None)
        try:
            self._go_round(me)
        finally:
            if claim.get(None) is me:
                # The function has failed. Word that was left meanwhile is still worth a run.
                claim.clear()
                if self._news:
                    self()

    def _go_round(self, me: object) -> None:
        """Run as long as there is news and nobody else is at it."""
        claim = self._claim
        while self._news and claim.setdefault(None, me) is me:
            self._news.clear()
            self._function()
            claim.clear()
