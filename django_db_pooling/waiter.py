"""A caller that waits for a slot."""

from __future__ import annotations

import threading

from django_db_pooling.slot import Slot


class Waiter:
    """A caller in the queue, and the place where the slot for it is put."""

    __slots__ = ("_woken", "expecting", "home", "impatient", "slot")

    def __init__(self, home: object, impatient: bool) -> None:
        self.home = home
        self.impatient = impatient
        self.expecting = True
        self.slot: Slot | None = None
        # threading's lock as it is at run time: gevent's where gevent is active.
        self._woken = threading.Lock()
        self._woken.acquire()

    def serve(self, slot: Slot) -> None:
        self.slot = slot
        self._woken.release()

    def wait(self, seconds: float) -> bool:
        if seconds <= 0:
            return self._woken.acquire(blocking=False)
        return self._woken.acquire(timeout=seconds)

    def take(self) -> Slot:
        slot, self.slot = self.slot, None
        self.expecting = False
        assert slot is not None
        return slot

    def expect_again(self) -> None:
        self.expecting = True
