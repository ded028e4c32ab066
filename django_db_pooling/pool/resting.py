"""Sessions at rest: left to their users until others need the connections. Changed ones, and those that their
users have lent out while they wait for something themselves.

This file alone changes ``_rests``. Whoever removes a rest from it has its slot.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.slots import Slots

# A session stays its user's for so many seconds although others wait, and for so many at most.
MIN_REST, MAX_REST = 1.0, 10.0


class Rest:
    """A slot whose user may come back for it. Who comes too late finds none here, also where the same slot
    rests again, for another user. ``lent``: others may have it at once, and it rests for as long as its user
    waits.
    """

    __slots__ = ("affinity", "lent", "pool", "since", "slot")

    def __init__(self, slot: Slot, since: float, lent: bool) -> None:
        # None once it is over: a user that doesn't come back must not keep the slot alive.
        self.slot: Slot | None = slot
        self.affinity = slot.affinity
        # As slot.pool.
        self.pool: Any = slot.pool
        self.since = since
        self.lent = lent


class Resting:
    """The sessions at rest of one pool."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._rests: deque[Rest] = deque()

    def __len__(self) -> int:
        return len(self._rests)

    def all(self) -> list[Rest]:
        return list(self._rests)

    def rest(self, slot: Slot, lent: bool = False) -> Rest:
        """Leave a session to its user. No I/O, no switch."""
        slot.returned_at = now = time.monotonic()
        rest = Rest(slot, now, lent)
        self._rests.append(rest)
        return rest

    def resume(self, rest: Rest) -> Slot | None:
        """What was left at rest, checked out as before; None where it isn't the caller's any more."""
        try:
            self._rests.remove(rest)
        except ValueError:
            return None
        slot, rest.slot = rest.slot, None
        return slot

    def claim_any(self, affinity: object) -> Slot | None:
        """For a caller that waits: one that has rested for long enough. Its new holder resets it."""
        return self._claim(lambda rest: rest.affinity == affinity)

    def claim_other(self, affinity: object) -> Slot | None:
        """For a caller that waits: one of another affinity, which gives way."""
        return self._claim(lambda rest: rest.affinity != affinity)

    def _claim(self, is_meant: Callable[[Rest], bool]) -> Slot | None:
        """The one that has rested for longest."""
        now = time.monotonic()
        for rest in self.all():
            if is_meant(rest) and (rest.lent or now - rest.since >= MIN_REST):
                slot = self.resume(rest)
                if slot is not None:
                    self._slots.count_held(slot, now)
                    return slot
        return None

    def end(self, rest: Rest) -> None:
        """Its user doesn't come back for it: its next holder resets the session."""
        slot = self.resume(rest)
        if slot is not None:
            self._slots.checkin(slot)

    def end_all(self) -> None:
        for rest in self.all():
            self.end(rest)

    def end_old(self, seconds: float | None = None, lent: bool = False) -> None:
        """Those that have rested for so long; left out, for as long as they may. ``lent``: these, too."""
        now = time.monotonic()
        if seconds is None:
            seconds = MAX_REST
        for rest in self.all():
            if now - rest.since >= seconds and (lent or not rest.lent):
                self.end(rest)
