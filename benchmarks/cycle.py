"""A whole request cycle in a fresh greenlet, one query on a stub driver, in the variant's own environment.

``request_started``, a read through the variant's reader, ``request_finished``: what remains of a request
without the web server, the view and the database. Prints JSON.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

# ruff: noqa: E402
import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import gevent

from benchmarks.calls import Count, counting
from benchmarks.stub_mysql import Counter

WARM_UP = 200
# Long enough for the garbage collector to run in each repeat.
CYCLES = 500
REPEATS = 6


def make_cycle(database: str, *, transaction: bool = False) -> Callable[[], None]:
    """Sets Django up as the benchmark site's wsgi.py does, on a stub."""
    os.environ["BENCHMARK_DATABASE_URL"] = (
        f"{'mysql' if database == 'mysql' else 'postgres'}://user:secret@127.0.0.1:9/stub"
    )
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.site.settings"
    importlib.import_module(f"benchmarks.stub_{database}").install()
    importlib.import_module("benchmarks.site.wsgi")
    from django.core import signals

    from benchmarks.rows import token
    from benchmarks.site.views import reader

    read = reader.read_in_transaction if transaction else reader.read
    expected = token(1)

    def cycle() -> None:
        environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "PATH_INFO": "/one"}
        signals.request_started.send(sender=None, environ=environ)
        assert read(1) == expected
        signals.request_finished.send(sender=None)

    return cycle


def measure(cycle: Callable[[], None]) -> dict[str, float]:
    def in_greenlet(function: Callable[[], None]) -> None:
        greenlet = gevent.spawn(function)
        # Raises what it raised.
        greenlet.get()

    for _ in range(WARM_UP):
        in_greenlet(cycle)
    round_trips, connects = Counter.round_trips, Counter.connects
    best = float("inf")
    for _ in range(REPEATS):
        began = time.process_time()
        for _ in range(CYCLES):
            in_greenlet(cycle)
        best = min(best, time.process_time() - began)
    round_trips, connects = Counter.round_trips - round_trips, Counter.connects - connects
    counts: list[Count] = []

    def counted() -> None:
        with counting() as count:
            cycle()
        counts.append(count)

    in_greenlet(counted)
    return {
        "microseconds": best / CYCLES * 1e6,
        "calls": counts[0].python,
        "package_calls": counts[0].package,
        "round_trips": round_trips / (CYCLES * REPEATS),
        "connects": connects / (CYCLES * REPEATS),
    }


def profile(cycle: Callable[[], None], cycles: int = 5000) -> None:
    """Where the time goes, by the profiler."""
    import cProfile
    import pstats

    profiler = cProfile.Profile()

    def all_at_once() -> None:
        for _ in range(WARM_UP):
            cycle()
        profiler.enable()
        for _ in range(cycles):
            cycle()
        profiler.disable()

    gevent.spawn(all_at_once).get()
    pstats.Stats(profiler, stream=sys.stdout).sort_stats("tottime").print_stats(45)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    cycle = make_cycle(arguments.database)
    if arguments.profile:
        profile(cycle)
    else:
        print(json.dumps(measure(cycle)))


if __name__ == "__main__":
    main()
