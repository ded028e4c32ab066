"""gevent that patches a process in which some of this package has run; each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 60
PATCH = """
import warnings
from gevent import monkey
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    monkey.patch_all()
"""


def run(before: str, after: str) -> None:
    """One script, then gevent's patch, then the other; neither may fail or say anything."""
    done = subprocess.run(
        [sys.executable, "-c", before + PATCH + after],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_original_functions_are_the_same_whether_asked_for_before_or_after() -> None:
    before = """
import _thread, select, time
from django_db_pooling.process import green
originals = {"poll": select.poll, "sleep": time.sleep, "start_new_thread": _thread.start_new_thread}
assert green.original("select", "poll") is originals["poll"]
"""
    after = """
assert select.poll is not originals["poll"]
assert green.original("select", "poll") is originals["poll"]
assert green.original("time", "sleep") is originals["sleep"]
assert green.original("_thread", "start_new_thread") is originals["start_new_thread"]
assert green.patched("select") and green.patched("threading")
"""
    run(before, after)


def test_threads_go_on_while_another_one_imports_gevent() -> None:
    """sys.modules has the module from the beginning of that, and it has next to nothing."""
    before = """
import importlib.abc, select, sys, threading
from django_db_pooling.process import green
begun, go_on = threading.Event(), threading.Event()

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if "gevent.monkey" in sys.modules:
            begun.set()
            go_on.wait(20)

sys.meta_path.insert(0, Slow())

def load():
    import gevent.monkey

thread = threading.Thread(target=load, daemon=True)
thread.start()
assert begun.wait(20)
assert not green.patched("socket")
assert green.original("select", "poll") is select.poll
go_on.set()
thread.join()
"""
    run(before, "")


def test_the_housekeeping_goes_on_in_the_hub_of_who_asks_for_it() -> None:
    """What it opened in its native thread would work only there."""
    before = """
import threading, time
from django_db_pooling.process import housekeeper
housekeeper.TICK = 0.01
callers = []
keeper = housekeeper.Housekeeper(lambda: callers.append(threading.get_native_id()) or True)
keeper.ensure_running()
while len(callers) < 3:
    time.sleep(0.001)
me = threading.get_native_id()
assert me not in callers
"""
    after = """
import gevent
keeper.ensure_running()
with gevent.Timeout(20):
    while len(callers) < 20 or set(callers[-20:]) != {me}:
        gevent.sleep(0.001)
keeper.ensure_running()
assert [thread.name for thread in threading.enumerate()].count("django_db_pooling housekeeper") == 2
"""
    run(before, after)
