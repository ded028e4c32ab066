"""Many callers in a small pool, with bad luck of every kind.

``python -m tests.unit.storm SEED SECONDS`` does it with greenlets.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from django_db_pooling import pool as pool_module
from django_db_pooling.pool import CheckoutTimeout
from tests.unit.fakes import PASSED, SOON, Connection, FakeDriver, FakePool

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

    def happens(self, share: float) -> bool:
        return self.stormy and self.luck.random() < share

    def connect(self) -> Connection:
        time.sleep(0.001 * self.luck.random())
        if self.happens(0.1):
            raise ConnectionRefusedError
        connection = super().connect()
        if self.happens(0.05):
            raise Misfortune
        return connection

    def alive(self, connection: Connection) -> bool | None:
        if self.happens(0.05):
            return self.luck.choice([None, False])
        return True

    def drop(self, connection: Connection) -> None:
        super().drop(connection)
        if self.happens(0.05):
            raise OSError

    def close(self, connection: Connection, linger: float) -> None:
        time.sleep(0.001 * self.luck.random())
        super().close(connection, linger)
        if self.happens(0.1):
            raise OSError
        if self.happens(0.05):
            raise Misfortune


class Storm:
    kills: type[BaseException] = Misfortune

    def __init__(self, seed: int, seconds: float) -> None:
        self.seed = seed
        # Without one, a wake-up that gets lost stays lost.
        self.is_kept = seed % 2 == 0
        self.end = time.monotonic() + seconds
        self.driver = StormyDriver(seed)
        self.pool = FakePool(self.driver, size=2, max_outstanding=CAP, min_size=1, max_age=0.5)
        self.faults: list[str] = []
        self.served = 0

    def caller(self, number: int) -> None:
        luck = random.Random(f"{self.seed} {number}")
        while time.monotonic() < self.end:
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
        if luck.random() < 0.5:
            time.sleep(0.002 * luck.random())
        if connection.user != number:
            self.faults.append(f"{connection} is {number}'s, and {connection.user} has it")
        self.served += 1
        connection.user = None
        fate = luck.random()
        if fate < 0.04:
            return  # It is dropped.
        if fate < 0.06:
            cycle: list[Any] = [slot]
            cycle.append(cycle)
        elif fate < 0.10:
            pool.discard(slot, broken=True)
            pool.discard(slot)
        elif fate < 0.14:
            pool.close(slot)
        elif fate < 0.16:
            raise Misfortune
        else:
            pool.give(slot)

    def housekeeper(self) -> None:
        luck = random.Random(f"{self.seed} housekeeper")
        while self.is_kept and time.monotonic() < self.end:
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
        stuck = self.all_end(lambda: sum(thread.is_alive() for thread in threads))
        assert not stuck, f"{stuck} never ended; {self.pool.snapshot()}"
        self.check()

    def all_end(self, alive: Callable[[], int]) -> int:
        """What is in reference cycles must be collected: somebody may be waiting for it."""
        give_up = self.end + SOON
        while alive() and time.monotonic() < give_up:
            time.sleep(0.01)
            if time.monotonic() > self.end:
                gc.collect()
        return alive()

    def check(self) -> None:
        gc.collect()
        self.driver.stormy = False
        pool = self.pool
        stats = pool.snapshot()
        assert not self.faults, self.faults
        assert self.served > 100
        assert self.driver.peak <= CAP, self.driver.peak
        assert (stats.waiting, stats.opening, stats.in_use) == (0, 0, 0), stats
        assert len(pool) == stats.idle == len(self.driver.open), stats
        assert stats.opened - stats.closed == stats.idle, stats
        pool.drain()
        held = [pool.take_now() for _ in range(CAP)]
        try:
            pool.checkout(PASSED)
        except CheckoutTimeout:
            pass
        else:
            raise AssertionError("more than the cap")
        assert len(held) == len(self.driver.open) == CAP


class GreenStorm(Storm):
    """Greenlets are interrupted by timeouts, and killed, wherever they switch."""

    def __init__(self, seed: int, seconds: float) -> None:
        from gevent import GreenletExit

        super().__init__(seed, seconds)
        self.kills = GreenletExit

    def interruptions(self, luck: random.Random) -> Any:
        import gevent

        seconds = 0.004 * luck.random() if luck.random() < 0.3 else None
        return gevent.Timeout(seconds, Misfortune)

    def run(self) -> None:
        import gevent

        housekeeper = gevent.spawn(self.housekeeper)
        numbers = iter(range(1_000_000))
        luck = random.Random(f"{self.seed} killer")
        greenlets = [gevent.spawn(self.caller, next(numbers)) for _ in range(CALLERS)]
        while time.monotonic() < self.end:
            gevent.sleep(0.005)
            victim = luck.randrange(CALLERS)
            greenlets[victim].kill(block=False)
            greenlets[victim] = gevent.spawn(self.caller, next(numbers))
        greenlets.append(housekeeper)
        stuck = self.all_end(lambda: sum(not greenlet.dead for greenlet in greenlets))
        assert not stuck, f"{stuck} never ended; {self.pool.snapshot()}"
        self.check()


if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()
    logging.disable()
    pool_module.LINGER = 0.0
    pool_module.LOOK_AROUND = 3600.0
    GreenStorm(int(sys.argv[1]), float(sys.argv[2])).run()
