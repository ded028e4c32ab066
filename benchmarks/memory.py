"""The memory of request cycles in fresh greenlets on a stub driver, with the garbage collector off.

``python -m benchmarks.memory mysql``, with the variant's name in BENCHMARK_VARIANT: what a request leaves
behind adds up, cycles of objects included. Prints, as JSON, the process's resident memory after some requests
and after many.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

# ruff: noqa: E402
import argparse
import gc
import json
import os
import resource
from collections import Counter
from pathlib import Path

from benchmarks.cycle import make_cycle
from benchmarks.steady import Steady

PAGE = resource.getpagesize()


def resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def growth(steady: Steady, at_once: int) -> dict[str, int]:
    """Resident memory after the warm-up and at the end."""
    result = {}

    def begin() -> None:
        result["first"] = resident()

    def end() -> None:
        result["last"] = resident()

    steady.begin, steady.end = begin, end
    steady.run(at_once)
    return result


def cycles(steady: Steady, at_once: int) -> dict[str, int]:
    """By type, the objects that only the collector finds."""
    types: Counter[str] = Counter()

    def begin() -> None:
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)

    def end() -> None:
        gc.collect()
        types.update(f"{type(found).__module__}.{type(found).__qualname__}" for found in gc.garbage)

    steady.begin, steady.end = begin, end
    steady.run(at_once)
    return dict(types.most_common())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database")
    parser.add_argument("--transaction", action="store_true", help="the query is in an atomic()")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--warm-up", type=int, default=20_000, help="of them, before the first look")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--cycles", action="store_true", help="instead, what types of objects pile up")
    arguments = parser.parse_args()
    cycle = make_cycle(arguments.database, transaction=arguments.transaction)
    gc.collect()
    gc.disable()
    steady = Steady(cycle, arguments.requests - arguments.warm_up, warm_up=arguments.warm_up)
    print(json.dumps((cycles if arguments.cycles else growth)(steady, arguments.at_once)), flush=True)
    # The interpreter's end is another matter.
    os._exit(0)


if __name__ == "__main__":
    main()
