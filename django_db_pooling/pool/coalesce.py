"""Mutual exclusion for callers that must never block."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Coalesced:
    """Calls ``function`` so that runs never overlap, and each call is followed by a whole run.

    A lock would not do: the callers include finalizers, which may be called inside of a run in the same
    thread, and gevent's hub, which must not wait. So whoever finds a run under way only requests another one,
    and the runner runs once more.

    Each side writes before it reads: a caller adds its request before it tries for the claim, the runner
    gives the claim up before it checks for requests a last time.
    """

    __slots__ = ("_claim", "_function", "_requests")

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._requests: deque[None] = deque()
        self._claim: dict[None, object] = {}

    @property
    def running(self) -> bool:
        """Whether there is a run, or another one is about to begin."""
        return bool(self._requests) or bool(self._claim)

    def __call__(self) -> None:
        me = object()
        claim = self._claim
        self._requests.append(None)
        try:
            self._run(me)
        finally:
            if claim.get(None) is me:
                # The function has failed. Requests that have come meanwhile still need a run.
                claim.clear()
                if self._requests:
                    self()

    def _run(self, me: object) -> None:
        """Run as long as there are requests and nobody else runs."""
        claim = self._claim
        while self._requests and claim.setdefault(None, me) is me:
            self._requests.clear()
            self._function()
            claim.clear()
