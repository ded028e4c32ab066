"""How many functions the hot path calls: a budget, so that nothing creeps in. Time is for the benchmarks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.calls import counting
from benchmarks.checkout import django_db_pooling
from benchmarks.instructions import Case, Counting
from benchmarks.variants import CEILING
from tests.conftest import give_up
from tests.stubbed import ROOT, figures

# One of them is that of checkout() to take_idle(), which the wrapper calls itself.
CHECKOUT_AND_CHECKIN = 8
# In this package, of greenlets, for a checkout that has to wait, the checkin of it, and what wakes it.
CHECKOUT_THAT_WAITS = 15
# In Python, over what the same request costs on a wrapper that is always connected. That one calls
# ConnectionHandler.all() three times more, whose comprehension is a call before Python 3.12.
COMPREHENSIONS = 0 if sys.version_info < (3, 12) else 3
REQUEST = {"mysql": 22 + COMPREHENSIONS, "postgresql": 20 + COMPREHENSIONS}
# Of this package alone, of a request with one query.
OF_THE_PACKAGE = {
    ("django_db_pooling", "mysql"): 55,
    ("django_db_pooling", "postgresql"): 55,
    ("django_db_pooling, transactions", "mysql"): 62,
    ("django_db_pooling, transactions", "postgresql"): 62,
}
# The same with the end of the request's greenlet: one request at a time, 100 at a time on 20 connections.
TO_THE_END = {
    ("django_db_pooling", "mysql"): (58, 72),
    ("django_db_pooling", "postgresql"): (58, 72),
    ("django_db_pooling, transactions", "mysql"): (65, 79),
    ("django_db_pooling, transactions", "postgresql"): (65, 79),
}


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
    ends_elsewhere = False
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
    ours, ceiling = (figures("cycle", variant, database) for variant in ("django_db_pooling", CEILING))
    assert ours["round_trips"] == ceiling["round_trips"] == 1
    assert ours["connects"] == ceiling["connects"] == 0
    assert ours["calls"] - ceiling["calls"] <= REQUEST[database], (ours, ceiling)
    assert ceiling["package_calls"] == 0


@pytest.mark.parametrize(("variant", "database"), OF_THE_PACKAGE)
def test_the_package_s_part_of_a_request(variant: str, database: str) -> None:
    assert 0 < figures("cycle", variant, database)["package_calls"] <= OF_THE_PACKAGE[variant, database]


@pytest.mark.parametrize(("variant", "database"), TO_THE_END)
@pytest.mark.parametrize(("which", "at_once"), [(0, 1), (1, 100)])
def test_the_package_s_part_to_the_end(variant: str, database: str, which: int, at_once: int) -> None:
    if shutil.which("gcc") is None:
        give_up("gcc is not installed on this machine; `make test` as root installs it")
    counting = Counting(ROOT, lambda variant: Path(sys.executable), requests=200, seeds=1)
    functions = counting.functions(variant, Case(database, transaction=False, at_once=at_once))
    calls = sum(function["calls"] for function in functions if function["package"])
    assert 0 < calls <= TO_THE_END[variant, database][which], functions
