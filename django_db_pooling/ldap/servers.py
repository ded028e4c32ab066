"""Which server of a list to connect to: in turn, but those that were away lately come last."""

from __future__ import annotations

import functools
import itertools
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from django_db_pooling.process import fork

# For so many seconds a server that was away comes after the others.
AWAY_SECONDS = 10.0
# So does one where an attempt has gone on for so many seconds.
STALLED_AFTER = 0.5
# Seconds for one server while there are others to try.
MAX_PER_SERVER = 5.0

_SEPARATOR = re.compile(r"[\s,]+(?=ldap[is]?://)", re.IGNORECASE)


class Servers:
    """The servers of one list of URIs."""

    def __init__(self, uris: str) -> None:
        self._uris = [uri for uri in _SEPARATOR.split(uris.strip()) if uri]
        # At random, or many processes with one connection each would all begin with the same server.
        self._turns = itertools.count(random.randrange(len(self._uris)))
        # When each was last found away, or tried again since.
        self._away: dict[str, float] = {}
        # Attempts that aren't over: which server, and since when. Nothing ends a TLS handshake.
        self._trying: dict[object, tuple[str, float]] = {}

    def in_order(self) -> list[str]:
        """All of them: the one to try first comes first."""
        first = next(self._turns) % len(self._uris)
        turned = self._uris[first:] + self._uris[:first]
        now = time.monotonic()
        chosen = sorted(turned, key=lambda uri: self._is_away(uri, now))
        if chosen[0] in self._away:
            # Only this caller tries it; the others go elsewhere meanwhile.
            self._away[chosen[0]] = now
        return chosen

    def _is_away(self, uri: str, now: float) -> bool:
        was_away = now - self._away.get(uri, -AWAY_SECONDS) < AWAY_SECONDS
        trying = list(self._trying.values())
        return was_away or any(tried == uri and now - since > STALLED_AFTER for tried, since in trying)

    @contextmanager
    def trying(self, uri: str) -> Iterator[None]:
        """Around an attempt to connect to one of them."""
        attempt = object()
        self._trying[attempt] = uri, time.monotonic()
        try:
            yield
        finally:
            del self._trying[attempt]

    def mark_up(self, uri: str) -> None:
        """It accepts connections."""
        self._away.pop(uri, None)

    def mark_away(self, uri: str) -> None:
        """It isn't there, or accepts nobody."""
        self._away[uri] = time.monotonic()

    @staticmethod
    def seconds_for_one(seconds: float | None, others: int) -> float | None:
        """For one attempt, of the seconds left for it and ``others`` more."""
        if not others:
            return seconds
        return MAX_PER_SERVER if seconds is None else min(seconds / (others + 1), MAX_PER_SERVER)


@functools.cache
def servers(uris: str) -> Servers:
    """The one object for this list in this process."""
    return Servers(uris)


# The attempts of the parent don't go on in its child.
fork.in_child(servers.cache_clear)
