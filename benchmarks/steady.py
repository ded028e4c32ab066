"""Request cycles on a stub driver, a steady number of them at a time, counted by callgrind.

Each request has a greenlet of its own, and its last act is to start the next one. With more than one at a
time the stub lets the others run before each answer. Run by benchmarks.instructions in the variant's
environment; ``--functions`` does without callgrind.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

# ruff: noqa: E402
import argparse
import ctypes
import gc
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import gevent
from gevent.event import Event

from benchmarks.calls import is_of_package
from benchmarks.cycle import make_cycle
from benchmarks.stub_mysql import Server

# Every wrapper, cache and connection is there after that; the collector's generations are as they will be.
WARM_UP = 400


class Steady:
    """Calls ``prepare`` in each greenlet, ``begin`` after the warm-up, ``end`` after ``counted`` requests."""

    def __init__(self, cycle: Callable[[], None], counted: int, warm_up: int = WARM_UP) -> None:
        self.prepare: Callable[[], object] = int
        self.begin: Callable[[], object] = int
        self.end: Callable[[], object] = int
        self._cycle = cycle
        self._done = 0
        self._warm_up = warm_up
        self._last = warm_up + counted
        self._over = Event()
        self.error: BaseException | None = None

    def run(self, at_once: int) -> None:
        if at_once > 1:
            Server.wait = gevent.sleep
        for _ in range(at_once):
            gevent.spawn(self._request)
        self._over.wait()
        if self.error is not None:
            raise self.error

    def _request(self) -> None:
        try:
            self.prepare()
            self._cycle()
            self._count()
        except BaseException as error:
            self.error = error
            self._over.set()
            raise
        gevent.spawn(self._request)

    def _count(self) -> None:
        self._done += 1
        if self._done == self._warm_up:
            self.begin()
        elif self._done == self._last:
            self.end()
            self._over.set()


def count_instructions(steady: Steady, at_once: int) -> None:
    """callgrind writes down what it has counted."""
    marks = _marks()

    def begin() -> None:
        gc.collect()
        marks.start_counting()

    steady.begin = begin
    steady.end = marks.stop_counting
    steady.run(at_once)


def _marks() -> Any:
    """callgrind.c. The clock stands still from now on: who waits for whom is the same each time."""
    marks = ctypes.CDLL(os.environ["BENCHMARK_MARKS"])
    marks.stop_clock()
    return marks


def count_calls(steady: Steady, at_once: int) -> list[dict[str, Any]]:
    """Of each Python function: its place, its calls and whether it is of the package."""
    _marks()
    calls: Counter[CodeType] = Counter()
    result: list[dict[str, Any]] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            calls[frame.f_code] += 1

    def profile() -> None:
        sys.setprofile(note)

    def end() -> None:
        sys.setprofile(None)
        for code, count in calls.items():
            place = f"{code.co_filename}:{code.co_firstlineno} {code.co_qualname}"
            result.append({"place": place, "calls": count, "package": is_of_package(code)})

    # Each greenlet has a profiler of its own, the hub, too.
    steady.prepare = profile
    steady.begin = calls.clear
    steady.end = end
    gevent.get_hub().loop.run_callback(profile)
    steady.run(at_once)
    sys.setprofile(None)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database")
    parser.add_argument("--transaction", action="store_true", help="the query is in an atomic()")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--functions", action="store_true", help="print calls by Python function as JSON")
    arguments = parser.parse_args()
    cycle = make_cycle(arguments.database, transaction=arguments.transaction)
    steady = Steady(cycle, arguments.requests)
    if arguments.functions:
        print(json.dumps(count_calls(steady, arguments.at_once)), flush=True)
    else:
        count_instructions(steady, arguments.at_once)
    # Nothing of what the interpreter does at its end.
    os._exit(0)


if __name__ == "__main__":
    main()
