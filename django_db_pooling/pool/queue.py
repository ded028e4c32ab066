"""A caller that waits for a slot."""

from __future__ import annotations

import contextlib
import threading
from typing import Protocol

from django_db_pooling.pool.slots import Slot


class Bell(Protocol):
    """Wakes one sleeper. A ring that comes before the wait is not lost."""

    def ring(self) -> None:
        """Callable from any thread and from finalizers; doesn't switch greenlets."""

    def wait(self, seconds: float) -> bool:
        """Sleep until it rings, at most so long. Whether it rang; that ring is used up."""


class ThreadBell:
    """A bell for native threads."""

    __slots__ = ("_silence",)

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        with contextlib.suppress(RuntimeError):
            # Released: nobody has waited since the last ring.
            self._silence.release()

    def wait(self, seconds: float) -> bool:
        if seconds <= 0:
            return self._silence.acquire(blocking=False)
        return self._silence.acquire(timeout=seconds)


class Waiter:
    """A caller in the queue, and the place where the slot for it is put."""

    __slots__ = ("_bell", "_refusal", "expecting", "home", "impatient", "number", "slot")

    def __init__(self, number: int, home: object, impatient: bool, bell: Bell) -> None:
        # Lower for whoever came earlier.
        self.number = number
        self.home = home
        self.impatient = impatient
        self.expecting = True
        self.slot: Slot | None = None
        self._refusal: Exception | None = None
        self._bell = bell

    def serve(self, slot: Slot) -> None:
        self.slot = slot
        self._bell.ring()

    def turn_away(self, error: Exception) -> None:
        """There will be no slot: take() raises this."""
        self._refusal = error
        self._bell.ring()

    def wait(self, seconds: float) -> bool:
        """Whether there is a slot, or an error, after so many seconds at most."""
        # The ring is only a hint: who serves may be interrupted between the two.
        if self.slot is None and self._refusal is None:
            self._bell.wait(seconds)
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
