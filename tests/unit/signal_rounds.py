"""What goes round in the main thread, until a signal's handler raises: neither claim nor waiter stays.

``python -m tests.unit.signal_rounds match|queue SECONDS``. Needs the standard library only.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable

from django_db_pooling.pool.coalesce import Coalesced
from django_db_pooling.process import wakeup
from tests.strikes import Strikes, Struck
from tests.unit.fakes import FakePool

# What is struck is struck within so many seconds.
MOST_SECONDS = 0.0005


def match() -> Callable[[], object]:
    """Others leave word in the middle of each run."""
    runs: list[int] = []

    def run() -> None:
        runs.append(1)
        if len(runs) < 2000:
            call._requests.append(None)

    call = Coalesced(run)

    def go_round() -> None:
        runs.clear()
        try:
            call()
        finally:
            assert not call._claim, "nobody could run it any more"
            call._requests.clear()

    return go_round


def queue() -> Callable[[], object]:
    """It looks around all the time, and nothing comes."""
    wakeup.RECHECK_INTERVAL = 0.0
    pool = FakePool(size=1, max_outstanding=1)
    held = pool.take()

    def wait() -> None:
        try:
            pool.checkout()
        finally:
            assert held.connection and pool.waiting == 0, "somebody who is gone is still in the queue"

    return wait


if __name__ == "__main__":
    strikes, work = Strikes(enough=math.inf), globals()[sys.argv[1]]()
    end = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        try:
            with strikes.within(MOST_SECONDS * random.random()):
                work()
        except Struck:
            pass
    print(strikes)
    assert len(strikes.hits) > 3
