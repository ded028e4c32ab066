"""The connections that nobody uses."""

from __future__ import annotations

from collections import deque
from collections.abc import Sized

from django_db_pooling.pool.slot import Slot


class Idle:
    """A stack. Whoever removes a slot from it has it."""

    def __init__(self) -> None:
        # With connections that are clean or whose next holder knows what to do.
        self._idle: deque[Slot] = deque()
        # True where there are any.
        self.unused: Sized = self._idle

    @property
    def idle_count(self) -> int:
        return len(self._idle)

    def idle(self) -> list[Slot]:
        """The one that was used last is the last."""
        return list(self._idle)

    def pop_oldest(self) -> Slot | None:
        """The one that has been idle for longest."""
        try:
            return self._idle.popleft()
        except IndexError:
            return None

    def claim(self, slot: Slot) -> bool:
        """Whether the slot was idle; it is the caller's then."""
        try:
            self._idle.remove(slot)
        except ValueError:
            return False
        return True

    def restore(self, slot: Slot) -> None:
        """To the place in which it was: nobody has used it since it was claimed."""
        earlier = sum(other.returned_at < slot.returned_at for other in self.idle())
        self._idle.insert(earlier, slot)

    def claim_any(self, affinity: object) -> Slot | None:
        """The one of this affinity that was used last."""
        for slot in reversed(self.idle()):
            if slot.affinity == affinity and self.claim(slot):
                return slot
        return None

    def claim_other(self, affinity: object) -> Slot | None:
        """The one of another affinity that has been unused for longest."""
        for slot in sorted(self.idle(), key=lambda slot: slot.returned_at):
            if slot.affinity != affinity and self.claim(slot):
                return slot
        return None
