"""Many callers in a small pool, in real threads: the system decides who runs when."""

from __future__ import annotations

import contextlib
import gc
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from django_db_pooling.pool import CheckoutTimeout
from django_db_pooling.pool.stats import Closed
from tests.unit.fakes import PASSED, SOON, Connection, FakeDriver, FakePool, until

CAP = 5
CALLERS = 24
# A refusal may come so many seconds after its deadline: this machine has other things to do.
LATE = 3.0


class Misfortune(BaseException):
    """Strikes where nobody expects it."""


class StormyDriver(FakeDriver):
    """Fails now and then, and counts users of each connection."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.luck = random.Random(seed)
        self.stormy = True
        # Around whatever suspends.
        self.at: Callable[[str], contextlib.AbstractContextManager[object]] = contextlib.nullcontext

    def happens(self, share: float) -> bool:
        return self.stormy and self.luck.random() < share

    def rest_at(self, point: str, seconds: float) -> None:
        with self.at(point):
            time.sleep(seconds * self.luck.random())

    def use(self, connection: Connection) -> None:
        """A statement."""

    def connect(self) -> Connection:
        self.rest_at("connecting", 0.001)
        if self.happens(0.1):
            raise ConnectionRefusedError
        connection = super().connect()
        if self.happens(0.05):
            # What fails half way is closed, as drivers do, and not left to whoever keeps the traceback.
            FakeDriver.drop(self, connection)
            raise Misfortune
        return connection

    def alive(self, connection: Connection) -> bool | None:
        if self.happens(0.05):
            return self.luck.choice([None, False])
        return True

    def end(self, connections: list[Connection], seconds: float) -> None:
        time.sleep(0.002 * self.luck.random())
        if self.happens(0.1):
            raise OSError
        if self.happens(0.05):
            raise SystemExit

    def drop(self, connection: Connection) -> None:
        super().drop(connection)
        if self.happens(0.05):
            raise OSError

    def close(self, connection: Connection, close_wait: float) -> None:
        self.rest_at("closing", 0.001)
        super().close(connection, close_wait)
        if self.happens(0.1):
            raise OSError
        if self.happens(0.05):
            raise Misfortune


class Storm:
    """One of threads."""

    driver_class: type[StormyDriver] = StormyDriver
    kills: type[BaseException] = Misfortune
    most_open = CAP

    def __init__(self, seed: int, seconds: float) -> None:
        self.seed = seed
        # Without one, a wake-up that gets lost stays lost.
        self.is_kept = seed % 2 == 0
        self.end = time.monotonic() + seconds
        self.driver = self.driver_class(seed)
        self.pool = FakePool(self.driver, size=2, max_outstanding=CAP, min_size=1, max_age=0.5)
        self.faults: list[str] = []
        self.served = 0

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.end

    def caller(self, number: int) -> None:
        luck = random.Random(f"{self.seed} {number}")
        while not self.is_over:
            try:
                with self.interruptions(luck):
                    self.request(luck, number)
            except (CheckoutTimeout, ConnectionRefusedError, Misfortune):
                pass
            except self.kills:
                return
            except BaseException as error:
                self.faults.append(repr(error))
                raise

    def interruptions(self, luck: random.Random) -> Any:
        return contextlib.nullcontext()

    def request(self, luck: random.Random, number: int) -> None:
        started = time.monotonic()
        deadline = luck.choice([PASSED, None, *[time.monotonic() + 0.01 * luck.random()] * 3])
        pool = self.pool
        try:
            slot = pool.checkout(deadline, number)
        except CheckoutTimeout:
            if deadline is not None and time.monotonic() > max(deadline, started) + LATE:
                self.faults.append(f"{number} was refused {time.monotonic() - started} s after {started}")
            raise
        if slot.connection is None:
            try:
                slot.connection = self.driver.connect()
            except BaseException as error:
                pool.open_failed(slot, error)
                raise
            pool.opened(slot)
        connection = slot.connection
        if connection.user is not None:
            self.faults.append(f"{number} got {connection}, which {connection.user} has")
        connection.user = number
        self.driver.use(connection)
        if luck.random() < 0.5:
            self.driver.rest_at("holding", 0.002)
            self.driver.use(connection)
        if connection.user != number:
            self.faults.append(f"{connection} is {number}'s, and {connection.user} has it")
        self.served += 1
        connection.user = None
        connection.executing = luck.random() < 0.3
        fate = luck.random()
        if fate < 0.04:
            return  # It is dropped.
        if fate < 0.06:
            cycle: list[Any] = [slot]
            cycle.append(cycle)
        elif fate < 0.10:
            pool.discard(slot, Closed.BROKEN)
            pool.discard(slot)
        elif fate < 0.14:
            pool.give_up(slot, Closed.BROKEN)
        elif fate < 0.17:
            pool.close(slot)
        elif fate < 0.19:
            raise Misfortune
        else:
            pool.give(slot)

    def housekeeper(self) -> None:
        luck = random.Random(f"{self.seed} housekeeper")
        while self.is_kept and not self.is_over:
            time.sleep(0.003)
            try:
                self.pool.maintain()
                slot = self.pool.reserve_minimum()
                if slot is not None:
                    self.pool.give(self.pool.fill(slot))
                if luck.random() < 0.02:
                    self.pool.recycle()
                if luck.random() < 0.02:
                    gc.collect()
            except (ConnectionRefusedError, Misfortune):
                pass
            except BaseException as error:
                self.faults.append(repr(error))
                raise
            finally:
                slot = None

    def run(self) -> None:
        threads = [
            threading.Thread(target=self.caller, args=(number,), daemon=True) for number in range(CALLERS)
        ]
        threads.append(threading.Thread(target=self.housekeeper, daemon=True))
        for thread in threads:
            thread.start()
        self.all_end(lambda: sum(thread.is_alive() for thread in threads))
        self.check()

    def all_end(self, alive: Callable[[], int]) -> None:
        give_up = self.end + 2 * SOON
        while alive() and time.monotonic() < give_up:
            time.sleep(0.05)
            # What is in reference cycles must be collected: somebody may be waiting for it.
            gc.collect()
        assert not alive(), f"{alive()} never ended; {self.pool.snapshot()}"

    def check(self) -> None:
        gc.collect()
        pool = self.pool
        until(lambda: not pool.snapshot().ending)
        self.driver.stormy = False
        stats = pool.snapshot()
        assert not self.faults, self.faults
        assert self.served > 100, (self.served, stats)
        assert stats.abandoned > 0
        assert self.driver.peak <= self.most_open, self.driver.peak
        assert (stats.waiting, stats.opening, stats.in_use) == (0, 0, 0), stats
        assert len(pool) == stats.idle == len(self.driver.open), stats
        self.check_counts()
        pool.drain()
        held = [pool.take_now() for _ in range(CAP)]
        try:
            pool.checkout(PASSED)
        except CheckoutTimeout:
            pass
        else:
            raise AssertionError("more than the cap")
        assert len(held) == len(self.driver.open) == CAP

    def check_counts(self) -> None:
        stats = self.pool.snapshot()
        assert stats.opened - stats.closed == stats.idle, stats
