"""A pool under HOST_LIMIT on a file, as one of several processes has it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django_db_pooling.pool.host import HostShare
from django_db_pooling.pool.host_bytes import MOST
from django_db_pooling.pool.host_needs import END, FIRST, LIMITS, PRESENT
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.waiter import CheckoutTimeout
from django_db_pooling.process.record_locks import RecordLocks
from tests.unit.fakes import FakePool
from tests.unit.other_process import OtherProcess


def finder(path: Path) -> Callable[[int | None], int]:
    """What RecordLocks ask for their file."""

    def find(descriptor: int | None) -> int:
        if descriptor is not None and path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    return find


class Worker:
    """``held``: what is checked out, the oldest first."""

    def __init__(self, path: Path, limit: int, **limits: Any) -> None:
        self.pool = FakePool(**{"max_outstanding": None, "size": 2} | limits)
        self.locks = RecordLocks(finder(path))
        self.host = self.pool.slots.host = HostShare(self.pool.slots, self.locks, limit)
        self.held: list[Slot] = []

    def open(self, count: int = 1) -> int:
        """Check out so many without waiting; how many there were."""
        for done in range(count):
            try:
                self.held.append(self.pool.take_now())
            except CheckoutTimeout:
                return done
        return count

    def wait_for_one(self, seconds: float) -> str | None:
        """Why it got none."""
        try:
            self.held.append(self.pool.take(time.monotonic() + seconds))
        except CheckoutTimeout as error:
            return str(error)
        return None

    def give(self, count: int = 1) -> None:
        """As a wrapper does at the end of its scope."""
        for _ in range(min(count, len(self.held))):
            self.pool.give(self.held.pop(0))

    def close(self, count: int = 1) -> None:
        for _ in range(min(count, len(self.held))):
            self.pool.close(self.held.pop(0))

    def drop(self) -> None:
        """Its holder is gone."""
        self.held.pop(0)

    def upkeep(self, times: int = 1) -> int:
        for _ in range(times):
            self.pool.maintain()
        return len(self.pool)

    def size(self) -> int:
        return len(self.pool)

    def idle(self) -> int:
        return self.pool.slots.idle_count

    def open_at_server(self) -> int:
        return len(self.pool.driver.open)

    def limit(self) -> int:
        return self.host.limit

    def set_limit(self, limit: int) -> None:
        self.host.set_limit(limit)

    def age(self, seconds: float) -> None:
        """What is idle has been so for that much longer."""
        for slot in self.pool.slots.idle():
            slot.returned_at -= seconds


class Seen:
    """What a process without a pool sees in the file."""

    def __init__(self, path: Path) -> None:
        self.locks = RecordLocks(finder(path))

    @property
    def open(self) -> int:
        return self.locks.count_others(0, MOST)

    @property
    def processes(self) -> int:
        return self.locks.count_others(PRESENT, LIMITS)

    @property
    def needs(self) -> int:
        return self.locks.count_others(FIRST, END)

    def counts(self) -> tuple[int, int, int]:
        return self.open, self.processes, self.needs


def worker(path: Path, limit: int, **limits: Any) -> OtherProcess[Worker]:
    return OtherProcess(lambda: Worker(path, limit, **limits))
