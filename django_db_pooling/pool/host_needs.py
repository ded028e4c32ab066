"""How processes tell each other what they lack under HOST_LIMIT: by locks in the file that they share."""

from __future__ import annotations

from django_db_pooling.pool.host_bytes import MOST
from django_db_pooling.process.record_locks import RecordLocks

# Behind the bytes of connections: one of each process that has or wants any; the processes' limits; and as
# many bytes as each process waits for: its first connection, what it lacks to its fair share, and more.
PRESENT, LIMITS = MOST, 2 * MOST
FIRST, NEEDED, WANTED, END = 1 << 40, 2 << 40, 3 << 40, 4 << 40


class Needs:
    """Of one pool. Methods raise OSError."""

    def __init__(self, locks: RecordLocks) -> None:
        self._locks = locks
        # Which byte of PRESENT is this process's.
        self.place: int | None = None
        # How many bytes it has locked at FIRST, NEEDED and WANTED, and since when.
        self.told = (0, 0, 0)
        self.told_at = 0.0

    def take_place(self) -> int:
        place = self.place
        if place is None:
            place = next(place for place in range(MOST) if self._locks.take(PRESENT + place))
            self.place = place
        return place

    def leave_place(self) -> None:
        place = self.place
        if place is not None:
            self._locks.release(PRESENT + place)
            self.place = None

    def tell(self, needs: tuple[int, int, int], now: float) -> None:
        """Replaces what was told before."""
        if needs == self.told:
            return
        at = self.take_place() * MOST
        self.told, self.told_at = needs, now
        for start, count in zip((FIRST, NEEDED, WANTED), needs, strict=True):
            self._locks.release(start + at, MOST)
            if count:
                self._locks.take(start + at, count)

    def settle(self, is_present: bool) -> None:
        """What was interrupted, or done by two threads at once: nothing else is locked than is known here."""
        place, told = self.place, self.told
        self._release(PRESENT, LIMITS, place)
        self._release(FIRST, END, None)
        if place is not None and not self._locks.take(PRESENT + place):
            self.place = None
        self.told = 0, 0, 0
        self.tell(told, self.told_at)
        if is_present:
            self.take_place()

    def _release(self, start: int, end: int, place: int | None) -> None:
        """All of these, but for this place among them."""
        middle = start if place is None else start + place
        for first, last in ((start, middle), (middle + (place is not None), end)):
            if first < last:
                self._locks.release(first, last - first)
