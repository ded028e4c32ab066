"""The bytes of a pool's connections in the file that all processes of the host share (HOST_LIMIT).

A slot has a byte of it, locked for as long as there is the slot. To the kernel the threads of a process are
one, so ``_owners`` says which of them has a byte. Whatever interrupts a method, ``settle`` puts it right.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from django_db_pooling.process.record_locks import RecordLocks

# No limit is higher: where the bytes end.
MOST = 1 << 20
# A method that has been interrupted isn't running any more after so many seconds.
INTERRUPTED = 2.0
# No slot's number.
NOBODY = 0


class Bytes:
    """Of one pool. ``limit``: how many there are in the host. Methods raise OSError."""

    def __init__(self, locks: RecordLocks, limit: int) -> None:
        self.limit = limit
        self._locks = locks
        # By number of the slot; and whose each byte is. Whoever adds one to the latter has it.
        self._bytes: dict[int, int] = {}
        self._owners: dict[int, int] = {}
        # Those that may be locked although nobody has them.
        self._doubtful: set[int] = set()
        # Numbers and bytes that don't belong together, and since when.
        self._odd: dict[tuple[int, int], float] = {}

    def __len__(self) -> int:
        return len(self._bytes)

    @property
    def of_all(self) -> int:
        """How many all processes have."""
        return len(self._bytes) + self._locks.count_others(0, MOST)

    @property
    def within_limit(self) -> int:
        """How many of ours are below the limit, which may have been lowered."""
        return sum(byte < self.limit for byte in list(self._bytes.values()))

    def take(self, number: int) -> bool:
        """One for the slot of this number; False: there is none."""
        byte = 0
        while byte < self.limit:
            if self._owners.setdefault(byte, number) == number:
                if self._locks.take(byte):
                    self._bytes[number] = byte
                    return True
                self._owners.pop(byte, None)
                # Others' bytes come in a row.
                found = self._locks.find_other(byte, self.limit)
                byte = found[1] if found is not None and found[0] == byte else byte + 1
            else:
                byte += 1
        return False

    def release(self, number: int) -> bool:
        """Its slot is gone; False: it had none."""
        byte = self._bytes.pop(number, None)
        if byte is None:
            return False
        self._unlock(byte)
        return True

    def _unlock(self, byte: int) -> None:
        # In this order: nobody else here takes it before it is unlocked. Where this is interrupted, it still
        # has an owner; where it fails, there is no such lock.
        try:
            self._locks.release(byte)
        except OSError:
            self._owners.pop(byte, None)
            raise
        self._owners.pop(byte, None)

    def settle(self, slots: Mapping[int, object]) -> None:
        """Each slot has one below the limit, as far as there are any; no other byte is locked."""
        now = time.monotonic()
        pairs = {*list(self._bytes.items()), *((number, byte) for byte, number in list(self._owners.items()))}
        odd = {pair for pair in pairs if not self._fit(*pair) or pair[0] not in slots}
        # One that is being taken or released this instant looks the same.
        self._odd = {one: self._odd.get(one, now) for one in odd}
        for pair, since in self._odd.items():
            if now - since >= INTERRUPTED:
                self._end(*pair)
        while self._doubtful:
            byte = self._doubtful.pop()
            if self._owners.setdefault(byte, NOBODY) == NOBODY:
                self._unlock(byte)
        for number in list(slots):
            had = self._bytes.get(number)
            if had is not None and not self._take_again(number, had):
                had = None
            if (had is None or had >= self.limit) and self.take(number) and had is not None:
                self._unlock(had)

    def _fit(self, number: int, byte: int) -> bool:
        """Whether both say that this slot has this byte."""
        return self._bytes.get(number) == byte and self._owners.get(byte) == number

    def _end(self, number: int, byte: int) -> None:
        """What an interruption has left of it."""
        if self._bytes.get(number) == byte:
            self._bytes.pop(number, None)
        if self._owners.get(byte) == number:
            self._unlock(byte)

    def _take_again(self, number: int, byte: int) -> bool:
        """The lock may be lost: other code has closed a descriptor of the file. False: others have it."""
        if not self._locks.take(byte):
            self._end(number, byte)
            return False
        if not self._fit(number, byte):
            # It is being released this instant, and may have been unlocked before this.
            self._doubtful.add(byte)
        return True

    @property
    def is_settled(self) -> bool:
        """Whether nothing is locked that ``settle`` would unlock."""
        return not (self._doubtful or self._odd or len(self._owners) > len(self._bytes))

    def forget(self) -> None:
        """Nothing is locked any more."""
        self._bytes.clear()
        self._owners.clear()
