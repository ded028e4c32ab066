"""Callers in a small pool, one of them in the main thread, where a signal's handler raises again and again.

``python -m tests.unit.signal_storm SEED SECONDS`` fails where something is lost. Needs no other package.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import sys
import threading
import time
from typing import Any

from django_db_pooling.pool import CheckoutTimeout, slots
from django_db_pooling.process import wakeup
from tests.strikes import Strikes
from tests.unit.fakes import SOON
from tests.unit.live_storm import CAP, LATE, Misfortune, Storm, StormyDriver

# Few: the main thread shall have its share of the time.
CALLERS = 6
# What is struck is struck within so many seconds.
MOST_SECONDS = 0.003
LEAST_POINTS = 30


class Struck(Misfortune):
    """Out of the handler."""


class ManyAffinities(StormyDriver):
    """Callers need connections of their own kind: those of others give way in the middle of a match."""

    affinities = (object(), object(), object())

    def hub(self) -> object:
        return self.luck.choice(self.affinities)


class SignalStorm(Storm):
    driver_class = ManyAffinities
    # What was about to be dropped when its thread was struck is open as long as the traceback refers to it.
    most_open = CAP + 1

    def __init__(self, seed: int, seconds: float) -> None:
        super().__init__(seed, seconds)
        self.strikes = Strikes(Struck)
        self.main_is_through = threading.Event()
        # Somebody's finalizer leaves word in the middle of a match, as often as it can.
        self.driver.at_drop = self.pool.queue.match

    def interruptions(self, luck: random.Random) -> contextlib.AbstractContextManager[object]:
        if threading.current_thread() is threading.main_thread():
            return self.strikes.within(MOST_SECONDS * luck.random() ** 2)
        return contextlib.nullcontext()

    def run(self) -> None:
        threads = [
            threading.Thread(target=self.caller, args=(number,), daemon=True) for number in range(CALLERS)
        ]
        threads.append(threading.Thread(target=self.housekeeper, daemon=True))
        threads.append(threading.Thread(target=self.collect_garbage, daemon=True))
        for thread in threads:
            thread.start()
        self.caller(len(threads))
        self.main_is_through.set()
        self.all_end(lambda: sum(thread.is_alive() for thread in threads))
        self.check()
        self.check_queue()
        assert len(self.strikes.hits) >= LEAST_POINTS, self.strikes

    def collect_garbage(self) -> None:
        """Somebody, even the main thread, may wait for what is in reference cycles."""
        while not self.main_is_through.wait(0.02):
            gc.collect()

    def check_counts(self) -> None:
        """What was struck between being done and being counted is not counted."""

    def check_queue(self) -> None:
        """Who has to wait gets a connection, or is refused in time."""
        gc.collect()
        pool = self.pool
        held = [pool.take_now() for _ in range(CAP)]
        began = time.monotonic()
        with contextlib.suppress(CheckoutTimeout):
            pool.checkout(began + 0.05)
            raise AssertionError("more than the cap")
        assert time.monotonic() < began + LATE
        giver = threading.Timer(0.05, lambda: pool.give(held.pop()))
        giver.start()
        pool.give(pool.take(time.monotonic() + SOON))
        giver.join()


def main(seed: int, seconds: float) -> Any:
    logging.disable()
    sys.setswitchinterval(1e-5)
    slots.CLOSE_WAIT = 0.0
    # They go round often.
    wakeup.RECHECK_INTERVAL = 0.0005
    storm = SignalStorm(seed, seconds)
    storm.run()
    return storm


if __name__ == "__main__":
    done = main(int(sys.argv[1]), float(sys.argv[2]))
    print(f"{done.strikes}, {done.served} served")
