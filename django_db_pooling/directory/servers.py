"""Which server of a list to connect to: each in its turn, and those that were away last come last."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import time
from collections.abc import Iterator

# A server that was away isn't asked before others for so many seconds.
AWAY_SECONDS = 10.0
# Most seconds for one server while there are others to ask.
NEXT_AFTER = 5.0

_SEPARATOR = re.compile(r"[\s,]+(?=ldap[is]?://)", re.IGNORECASE)


class Servers:
    """The servers of one list of URIs."""

    def __init__(self, uris: str) -> None:
        self._uris = [uri for uri in _SEPARATOR.split(uris.strip()) if uri]
        self._turns = itertools.count()
        # When they were away, or somebody went to see whether they still are.
        self._away: dict[str, float] = {}
        # Attempts that go on: where, and since when.
        self._attempts: dict[object, tuple[str, float]] = {}

    def in_turn(self) -> list[str]:
        """All of them, best first."""
        first = next(self._turns) % len(self._uris)
        turned = self._uris[first:] + self._uris[:first]
        now = time.monotonic()
        # Nothing ends a TLS handshake with a silent server: one would soon have all who connect.
        silent = {uri for uri, since in list(self._attempts.values()) if now - since > NEXT_AFTER}
        chosen = sorted(
            turned,
            key=lambda uri: uri in silent or now - self._away.get(uri, -AWAY_SECONDS) < AWAY_SECONDS,
        )
        if chosen[0] in self._away:
            # This caller finds out for all.
            self._away[chosen[0]] = now
        return chosen

    @contextlib.contextmanager
    def attempt(self, uri: str) -> Iterator[None]:
        """Around one."""
        me = object()
        self._attempts[me] = uri, time.monotonic()
        try:
            yield
        finally:
            del self._attempts[me]

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


# In a forked child the attempts that go on are nobody's.
os.register_at_fork(after_in_child=servers.cache_clear)
