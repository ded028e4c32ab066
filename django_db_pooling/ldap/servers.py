"""Which server of a list to connect to: each in its turn, and those that were away last come last."""

from __future__ import annotations

import functools
import itertools
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from django_db_pooling.process import fork

# A server that was away isn't asked before others for so many seconds.
AWAY_SECONDS = 10.0
# Nor is one at which somebody has been for so many seconds, without an answer.
STALLED = 0.5
# Most seconds for one server while there are others to ask.
NEXT_AFTER = 5.0

_SEPARATOR = re.compile(r"[\s,]+(?=ldap[is]?://)", re.IGNORECASE)


class Servers:
    """The servers of one list of URIs."""

    def __init__(self, uris: str) -> None:
        self._uris = [uri for uri in _SEPARATOR.split(uris.strip()) if uri]
        # Many processes with a connection each would else all begin with the same one.
        self._turns = itertools.count(random.randrange(len(self._uris)))
        # When they were away, or somebody went to see whether they still are.
        self._away: dict[str, float] = {}
        # Attempts that aren't over: at which server, and since when. Nothing ends a TLS handshake.
        self._trying: dict[object, tuple[str, float]] = {}

    def in_turn(self) -> list[str]:
        """All of them, best first."""
        first = next(self._turns) % len(self._uris)
        turned = self._uris[first:] + self._uris[:first]
        now = time.monotonic()
        chosen = sorted(turned, key=lambda uri: self._is_away(uri, now))
        if chosen[0] in self._away:
            # This caller finds out for all.
            self._away[chosen[0]] = now
        return chosen

    def _is_away(self, uri: str, now: float) -> bool:
        lately = now - self._away.get(uri, -AWAY_SECONDS) < AWAY_SECONDS
        trying = list(self._trying.values())
        return lately or any(tried == uri and now - since > STALLED for tried, since in trying)

    @contextmanager
    def attempt(self, uri: str) -> Iterator[None]:
        """Around connecting to one of them."""
        me = object()
        self._trying[me] = uri, time.monotonic()
        try:
            yield
        finally:
            del self._trying[me]

    def found(self, uri: str) -> None:
        """It is there."""
        self._away.pop(uri, None)

    def missed(self, uri: str) -> None:
        """It is not there, or takes nobody in."""
        self._away[uri] = time.monotonic()

    @staticmethod
    def seconds_for_one(seconds: float | None, others: int) -> float | None:
        """For one attempt, of those that are left for it and so many others."""
        if not others:
            return seconds
        return NEXT_AFTER if seconds is None else min(seconds / (others + 1), NEXT_AFTER)


@functools.cache
def servers(uris: str) -> Servers:
    """The servers of this list, the same ones for everybody in this process."""
    return Servers(uris)


# Who was trying there in the parent isn't in the child.
fork.in_child(servers.cache_clear)
