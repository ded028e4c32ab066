"""A caller that waits for a slot."""

from __future__ import annotations

from django_db_pooling.pool.slots import Slot
from django_db_pooling.process.wakeup import Wakeup


class Waiter:
    """A caller in the queue, and the place where the slot for it is put."""

    __slots__ = ("_wakeup", "_refusal", "expecting", "affinity", "impatient", "number", "slot")

    def __init__(self, number: int, affinity: object, impatient: bool, wakeup: Wakeup) -> None:
        # Lower for whoever came earlier.
        self.number = number
        self.affinity = affinity
        self.impatient = impatient
        self.expecting = True
        self.slot: Slot | None = None
        self._refusal: Exception | None = None
        self._wakeup = wakeup

    def serve(self, slot: Slot) -> None:
        self.slot = slot
        self._wakeup.wake()

    def turn_away(self, error: Exception) -> None:
        """There will be no slot: take() raises this."""
        self._refusal = error
        self._wakeup.wake()

    def wait(self, seconds: float) -> bool:
        """Whether there is a slot, or an error, after so many seconds at most."""
        # The ring is only a hint: who serves may be interrupted between the two.
        if self.slot is None and self._refusal is None:
            self._wakeup.wait(seconds)
        return self.slot is not None or self._refusal is not None

    def take(self) -> Slot:
        self.expecting = False
        if self._refusal is not None:
            raise self._refusal
        slot, self.slot = self.slot, None
        assert slot is not None
        return slot

    def expect_again(self) -> None:
        self.expecting = True
