"""What is looked after each second, in forked children and at exit."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from django_db_pooling.process import fork, housekeeper, upkeep
from django_db_pooling.process.housekeeper import Housekeeper
from django_db_pooling.process.tasks import Tasks
from tests.concurrency import in_child, silent_fork
from tests.unit.fakes import until

ROOT = Path(__file__).parents[2]
FORKS = [pytest.param(os.fork, id="by Python"), pytest.param(silent_fork, id="by C")]


class Thing:
    """Writes down what it is called for, and may fail at it. ``needs``: how many calls it asks for."""

    def __init__(self, name: str, calls: list[str], needs: int = 0, *, fails: bool = False) -> None:
        self.name = name
        self.tasks = Tasks()
        self.calls = calls
        self.needs = needs
        self.fails = fails

    def every_second(self) -> bool:
        self._called("every second")
        self.needs -= 1
        return self.needs > 0

    def forked(self) -> None:
        self._called("forked")

    def end(self) -> None:
        self._called("end")

    def _called(self, what: str) -> None:
        self.calls.append(f"{self.name}: {what}")
        if self.fails:
            raise OSError("a bad day")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Those of the things of a test; there are no others."""
    monkeypatch.setattr(upkeep, "_things", weakref.WeakValueDictionary())
    monkeypatch.setattr(upkeep, "_last_things", weakref.WeakValueDictionary())
    monkeypatch.setattr(upkeep, "_housekeepers", weakref.WeakKeyDictionary())
    monkeypatch.setattr(upkeep, "_housekeeper", Housekeeper(upkeep._every_second))
    monkeypatch.setattr(housekeeper, "TICK", 0.001)
    made: list[str] = []
    yield made
    until(lambda: not upkeep._housekeeper._running)


def added(*things: Thing) -> tuple[Thing, ...]:
    for thing in things:
        upkeep.add(thing)
    return things


def test_nothing_is_called_before_somebody_needs_it(calls: list[str]) -> None:
    things = added(Thing("one", calls), Thing("two", calls))
    assert not upkeep._housekeeper._running
    upkeep.ensure_running()
    until(lambda: not upkeep._housekeeper._running)
    assert calls[:2] == [f"{thing.name}: every second" for thing in things]


def test_all_are_called_until_none_needs_another_call(calls: list[str]) -> None:
    things = added(Thing("one", calls, 1), Thing("two", calls, 3))
    upkeep.ensure_running()
    until(lambda: not upkeep._housekeeper._running)
    # And a last look, after which nobody can have come unseen.
    assert calls == [f"{thing.name}: every second" for _ in range(4) for thing in things]


def test_one_that_fails_stops_none_of_the_others_and_is_called_again(
    calls: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    failing, fine = added(Thing("one", calls, fails=True), Thing("two", calls))
    assert upkeep._every_second()
    assert upkeep._every_second()
    failing.fails = False
    assert not upkeep._every_second()
    assert calls == [f"{thing.name}: every second" for _ in range(3) for thing in (failing, fine)]
    told = [(record.levelname, record.getMessage().partition("\n")[0]) for record in caplog.records]
    assert told == [
        ("ERROR", "looking after one failed, trying again: OSError: a bad day"),
        ("WARNING", "looking after one works again"),
    ]


def test_a_log_that_fails_stops_nobody_either(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    things = added(Thing("one", calls, fails=True), Thing("two", calls))

    def fail(record: logging.LogRecord) -> bool:
        raise OSError("a bad filter")

    monkeypatch.setattr(logging.getLogger("django_db_pooling"), "filters", [fail])
    assert upkeep._every_second()
    assert calls == [f"{thing.name}: every second" for thing in things]


def test_it_is_called_once_however_often_it_is_added(calls: list[str]) -> None:
    thing = Thing("one", calls)
    added(thing, thing)
    upkeep._every_second()
    assert calls == ["one: every second"]


def test_one_that_takes_long_delays_no_other(calls: list[str]) -> None:
    """As one that opens a connection to a server which doesn't answer."""
    go_on, waits = threading.Event(), threading.Event()

    class Slow(Thing):
        def every_second(self) -> bool:
            waits.set()
            go_on.wait(10)
            return super().every_second()

    slow, quick = Slow("slow", calls), Thing("quick", calls)
    upkeep.add(slow, own_thread=True)
    upkeep.add(quick)
    upkeep.ensure_running(slow)
    assert waits.wait(10)
    upkeep.ensure_running()
    until(lambda: not upkeep._housekeeper._running)
    assert set(calls) == {"quick: every second"}
    go_on.set()
    until(lambda: not upkeep._housekeepers[slow]._running)
    assert calls.count("slow: every second") == 2


def test_a_thread_of_its_own_ends_with_what_it_is_for(calls: list[str]) -> None:
    thing = Thing("one", calls, 10**6)
    upkeep.add(thing, own_thread=True)
    upkeep.ensure_running(thing)
    until(lambda: bool(calls))
    keeper, gone = upkeep._housekeepers[thing], weakref.ref(thing)
    del thing
    until(lambda: gone() is None)
    until(lambda: not keeper._running)


def test_what_nobody_refers_to_any_more_is_gone(calls: list[str]) -> None:
    one, two = added(Thing("one", calls), Thing("two", calls))
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None
    upkeep._every_second()
    assert calls == [f"{two.name}: every second"]


@pytest.mark.parametrize("how", FORKS)
def test_a_child_calls_forked_of_all_and_looks_after_them_itself(
    calls: list[str], how: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork, "_functions", [upkeep._after_fork])
    # A fork past Python must not find the thread at work.
    monkeypatch.setattr(housekeeper, "TICK", 0.1)
    things = added(Thing("one", calls, 10**6), Thing("two", calls))
    upkeep.ensure_running()
    until(lambda: bool(calls))

    def child() -> list[str]:
        if not fork.noticed[0]:
            fork.notice()
        forked = [call for call in calls if "forked" in call]
        assert not upkeep._housekeeper._running
        calls.clear()
        upkeep.ensure_running()
        until(lambda: bool(calls))
        return forked

    assert in_child(child, how) == ["one: forked", "two: forked"]
    assert not any("forked" in call for call in calls)
    things[0].needs = 0


def run(code: str) -> list[str]:
    """What a process of its own prints, which has things that print what they are called for."""
    prelude = """
import os, sys
from django_db_pooling.process import upkeep
from tests.concurrency import silent_fork
from tests.unit.test_upkeep import Thing
class Calls:
    def append(self, call):
        print(call, flush=True)
one, two, three = (Thing(name, Calls()) for name in ("one", "two", "three"))
"""
    done = subprocess.run(
        [sys.executable, "-c", prelude + code], cwd=ROOT, text=True, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_at_exit_all_end_in_the_order_in_which_they_were_added_whatever_fails() -> None:
    code = """
two.fails = True
for thing in (one, two, three):
    upkeep.add(thing)
"""
    assert run(code) == ["one: end", "two: end", "three: end"]


def test_the_last_one_ends_after_all_others_whenever_it_was_added() -> None:
    code = """
upkeep.add(one, last=True)
upkeep.add(two)
"""
    assert run(code) == ["two: end", "one: end"]


def test_an_application_s_end_comes_first_whatever_is_added_after_it() -> None:
    """It may still use connections."""
    code = """
import atexit
upkeep.add(one)
atexit.register(print, "the application", flush=True)
upkeep.add(one)
upkeep.add(two)
"""
    assert run(code) == ["the application", "one: end", "two: end"]


def test_they_can_end_before_what_is_there() -> None:
    """OpenTelemetry's provider ends at exit, too, and takes no figures after that."""
    code = """
import atexit
upkeep.add(one)
atexit.register(print, "the provider", flush=True)
upkeep.end_before_others()
"""
    assert run(code) == ["one: end", "the provider"]


@pytest.mark.parametrize("notices", [True, False])
@pytest.mark.parametrize("how", ["os.fork", "silent_fork"])
def test_a_child_ends_what_is_its_own(how: str, notices: bool) -> None:
    code = f"""
from django_db_pooling.process import fork
upkeep.add(one)
pid = {how}()
if pid == 0:
    if {notices}:
        fork.noticed[0] or fork.notice()
    sys.exit()
os.waitpid(pid, 0)
print("parent", flush=True)
"""
    child = ["one: forked", "one: end"] if notices or how == "os.fork" else []
    assert run(code) == [*child, "parent", "one: end"]
