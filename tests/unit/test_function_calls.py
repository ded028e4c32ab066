"""How many functions the hot path calls: a budget, so that nothing creeps in. Time is for the benchmarks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.calls import counting
from benchmarks.checkout import django_db_pooling
from benchmarks.variants import CEILING

ROOT = Path(__file__).parent.parent.parent
CHECKOUT_AND_CHECKIN = 7
# In this package, of greenlets, for a checkout that has to wait, the checkin of it, and what wakes it.
CHECKOUT_THAT_WAITS = 14
# In Python, with what Django calls to make a wrapper, over what the same request costs on a wrapper that
# is always connected.
REQUEST = {"mysql": 85, "postgresql": 88}


def test_checkout_and_checkin() -> None:
    cycle = django_db_pooling()
    for _ in range(3):
        cycle()
    with counting() as count:
        cycle()
    # Without the call of cycle() itself.
    assert count.python - 1 <= CHECKOUT_AND_CHECKIN


WAITING = """
from gevent import monkey
monkey.patch_all()
import gevent, sys, time
from django_db_pooling.pool import Pool
from django_db_pooling.pool.limits import Limits

class Driver:
    def hub(self): return None
    def alive(self, connection): return True

pool = Pool("default", Limits(size=1, max_outstanding=1), Driver())
calls = 0

def note(frame, event, argument):
    global calls
    calls += event == "call" and "/django_db_pooling/" in frame.f_code.co_filename

def use(times):
    sys.setprofile(note)
    for _ in range(times):
        slot = pool.checkout(time.monotonic() + 30)
        if slot.connection is None:
            slot.connection = object()
            pool.opened(slot)
        gevent.sleep(0)
        if pool.wants(slot):
            pool.checkin(slot)

def round(times):
    gevent.get_hub().loop.run_callback(sys.setprofile, note)
    gevent.joinall([gevent.spawn(use, times) for _ in range(5)])
    sys.setprofile(None)
    return calls

few = round(100)
print((round(200) - few - few) / 500, pool.snapshot().waits.count, pool.counts.queued)
"""


def test_a_checkout_that_waits() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WAITING], cwd=ROOT, text=True, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    calls, checkouts, queued = map(float, done.stdout.split())
    assert queued > 0.98 * checkouts
    assert calls <= CHECKOUT_THAT_WAITS + 0.5


@pytest.mark.parametrize("database", REQUEST)
def test_a_request_in_a_greenlet_of_its_own(database: str) -> None:
    ours, ceiling = (cycle(variant, database) for variant in ("django_db_pooling", CEILING))
    assert ours["round_trips"] == ceiling["round_trips"] == 1
    assert ours["connects"] == ceiling["connects"] == 0
    assert ours["calls"] - ceiling["calls"] <= REQUEST[database], (ours, ceiling)


def cycle(variant: str, database: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.cycle", database]
    environment = {**os.environ, "BENCHMARK_VARIANT": variant, "BENCHMARK_POOL_SIZE": "20"}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures
