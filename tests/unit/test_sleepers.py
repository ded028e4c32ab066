"""What callers sleep on: native threads, and gevent's greenlets."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import gevent
import pytest

from django_db_pooling.process import wakeup
from django_db_pooling.process.wakeup import GreenletSleepers, ThreadSleepers
from tests.unit.fakes import SOON, Caller, interrupted_at, until

ROOT = Path(__file__).parents[2]


class Sleeper:
    def __init__(self) -> None:
        self.outcome: Any = None
        self.asleep: Any = None


class Greenlets(GreenletSleepers):
    """Of this hub. They notice how often somebody looks for them."""

    __slots__ = ("looks",)

    def __init__(self) -> None:
        self.looks = 0
        super().__init__(gevent.get_hub(), self.count)

    def count(self) -> None:
        self.looks += 1

    def asleep(self, seconds: float = SOON) -> tuple[Sleeper, Any]:
        """One that has fallen asleep."""
        sleeper = Sleeper()
        greenlet = gevent.spawn(self.sleep, sleeper, seconds)
        gevent.sleep(0)
        assert sleeper.asleep is greenlet
        return sleeper, greenlet


def serve(sleepers: Any, sleeper: Sleeper) -> None:
    sleeper.outcome = "something"
    sleepers.wake(sleeper)


# -- native threads --------------------------------------------------------------------------------


def test_a_thread_sleeps_until_it_is_woken() -> None:
    sleepers, sleeper = ThreadSleepers(), Sleeper()
    caller = Caller(sleepers.sleep, sleeper, SOON)
    until(lambda: sleeper.asleep)
    serve(sleepers, sleeper)
    serve(sleepers, sleeper)
    caller.result()
    assert sleeper.asleep is None


def test_a_thread_looks_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "RECHECK_INTERVAL", 0.01)
    Caller(ThreadSleepers().sleep, Sleeper(), 3600.0).result()


@pytest.mark.parametrize("sleepers", [ThreadSleepers(), Greenlets()])
def test_who_has_an_outcome_does_not_fall_asleep(sleepers: Any) -> None:
    sleeper = Sleeper()
    serve(sleepers, sleeper)
    began = time.monotonic()
    sleepers.sleep(sleeper, SOON)
    assert time.monotonic() - began < 0.4


# -- greenlets -------------------------------------------------------------------------------------


def test_a_greenlet_sleeps_until_it_is_woken() -> None:
    sleepers = Greenlets()
    sleeper, greenlet = sleepers.asleep()
    serve(sleepers, sleeper)
    greenlet.get(timeout=0.4)


def test_another_native_thread_wakes_a_greenlet() -> None:
    sleepers = Greenlets()
    sleeper, greenlet = sleepers.asleep()
    thread = threading.Thread(target=serve, args=(sleepers, sleeper))
    thread.start()
    greenlet.get(timeout=0.4)
    thread.join()


@pytest.mark.parametrize("serve_first", [True, False])
def test_a_wake_up_does_not_reach_a_greenlet_that_was_interrupted_and_sleeps_on_something_else(
    serve_first: bool,
) -> None:
    """Both are on their way at once: whatever wakes it first, the other one must not wake it again."""
    sleepers, sleeper = Greenlets(), Sleeper()
    slept: list[float] = []

    def go_on() -> None:
        with contextlib.suppress(gevent.GreenletExit):
            sleepers.sleep(sleeper, SOON)
        began = time.monotonic()
        try:
            gevent.sleep(0.1)
        except gevent.GreenletExit:
            assert serve_first
            return
        slept.append(time.monotonic() - began)

    greenlet = gevent.spawn(go_on)
    gevent.sleep(0)
    if serve_first:
        serve(sleepers, sleeper)
    greenlet.kill(block=False)
    if not serve_first:
        serve(sleepers, sleeper)
    greenlet.get(timeout=SOON)
    assert serve_first or slept[0] > 0.09


def test_each_greenlet_wakes_at_its_own_deadline() -> None:
    sleepers = Greenlets()
    began, ended = time.monotonic(), []

    def sleep(seconds: float) -> None:
        sleepers.sleep(Sleeper(), seconds)
        ended.append((seconds, time.monotonic() - began))

    gevent.joinall([gevent.spawn(sleep, seconds) for seconds in (0.15, 0.05, 0.1, 0.7)], timeout=SOON)
    assert [seconds for seconds, _ in ended] == [0.05, 0.1, 0.15, 0.7]
    for seconds, took in ended:
        assert seconds <= took < seconds + 0.3


def test_somebody_looks_for_all_who_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "RECHECK_INTERVAL", 0.02)
    sleepers = Greenlets()
    asleep = [sleepers.asleep() for _ in range(50)]
    gevent.sleep(0.2)
    assert 3 <= sleepers.looks <= 11
    gevent.killall([greenlet for _, greenlet in asleep])


def test_who_serves_and_is_interrupted_before_it_wakes_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "RECHECK_INTERVAL", 0.02)
    sleeper, greenlet = Greenlets().asleep(3600.0)
    sleeper.outcome = "something"
    greenlet.get(timeout=SOON)


def test_a_timer_is_made_only_for_a_deadline_that_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []

    class Loop:
        def __init__(self, loop: Any) -> None:
            self._loop = loop

        def timer(self, *args: float) -> Any:
            made.append(args[0])
            return self._loop.timer(*args)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._loop, name)

    hub = gevent.get_hub()
    monkeypatch.setattr(hub, "loop", Loop(hub.loop))
    sleepers = Greenlets()
    monkeypatch.undo()
    for _ in range(3):
        asleep = [sleepers.asleep(30.0) for _ in range(20)]
        for sleeper, _ in asleep:
            serve(sleepers, sleeper)
        gevent.joinall([greenlet for _, greenlet in asleep], timeout=SOON)
    assert made == [wakeup.RECHECK_INTERVAL]


def test_whatever_is_interrupted_nobody_sleeps_for_ever_and_the_timer_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a signal's exception, at each point of a sleep and of what the hub does meanwhile."""
    monkeypatch.setattr(wakeup, "RECHECK_INTERVAL", 0.004)
    # gevent tells what is raised in the hub.
    monkeypatch.setattr(gevent.get_hub(), "exception_stream", None)
    point, more = 0, True
    while more:
        sleepers, sleeper = Greenlets(), Sleeper()
        with gevent.Timeout(SOON):
            more = interrupted_at(point, "/django_db_pooling/", lambda: sleepers.sleep(sleeper, 0.002))  # noqa: B023
            assert sleeper.asleep is None
            while sleepers._recheck.active:
                gevent.sleep(0.001)
        point += 1
    assert point > 10


# -- in a process that gevent has patched ----------------------------------------------------------------

PATCHED = """
from gevent import monkey
monkey.patch_all()
import gevent, time
from django_db_pooling.drivers.base import Driver
from django_db_pooling.pool import Pool, CheckoutTimeout
from django_db_pooling.pool.limits import Limits

class Fake(Driver):
    def alive(self, connection): return True
    def drop(self, connection): pass
    def close(self, connection, close_wait): pass

pool = Pool("default", Limits(size=1, max_outstanding=1), Fake())

def take():
    slot = pool.checkout(time.monotonic() + 30)
    if slot.connection is None:
        slot.connection = object()
        pool.opened(slot)
    return slot
"""


def run(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PATCHED + script], cwd=ROOT, text=True, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_gevents_loop_ends_when_nobody_waits_any_more() -> None:
    run("""
def wait():
    slot = take()
    gevent.sleep(0.01)
    pool.checkin(slot)
greenlets = [gevent.spawn(wait) for _ in range(5)]
killed = gevent.spawn(take)
gevent.sleep(0)
killed.kill()
began = time.monotonic()
assert gevent.get_hub().join(timeout=20)
assert all(greenlet.dead for greenlet in greenlets)
assert time.monotonic() - began < 0.3, time.monotonic() - began
""")


def test_the_loop_does_not_end_while_somebody_waits_for_another_native_thread() -> None:
    run("""
import _thread
slot = take()
def give():
    monkey.get_original("time", "sleep")(0.2)
    pool.checkin(slot)
monkey.get_original("_thread", "start_new_thread")(give, ())
assert take() is slot
""")


def test_an_exception_of_gevents_timeout_leaves_the_queue() -> None:
    run("""
slot = take()
for _ in range(3):
    try:
        with gevent.Timeout(0.01):
            take()
    except gevent.Timeout:
        pass
assert len(pool.queue.waiters) == 0
pool.checkin(slot)
assert take() is slot
assert gevent.get_hub().join(timeout=20)
""")
