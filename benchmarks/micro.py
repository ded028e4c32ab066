"""The price of a pool without web server, network and database.

Two tables: checkout and checkin of pools by themselves, and a whole request cycle on a stub driver. Each
figure is taken by a process of its own in the variant's environment, in interleaved rounds; the table has the
lowest time, since what disturbs a computation only ever makes it longer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.checkout import POOLS
from benchmarks.environments import CannotInstall, Environments, only_benchmarks
from benchmarks.variants import BY_NAME, CEILING, MYSQL, POSTGRESQL, VARIANTS

RUN_SECONDS = 120.0
# The variant in whose environment each pool is installed.
HOMES = {
    "django_db_pooling": "django_db_pooling",
    "SQLAlchemy QueuePool": "django-db-connection-pool",
    "psycopg_pool": "Django's own pool",
}
assert HOMES.keys() == POOLS.keys()

Result = dict[str, Any]


class Micro:
    def __init__(self, directory: Path, pool_size: int) -> None:
        self._directory = directory
        self._pool_size = pool_size
        self._environments = Environments()

    def checkout(self, name: str, *, gevent: bool) -> Result:
        return self._run(HOMES[name], "benchmarks.checkout", name, *(["--gevent"] if gevent else []))

    def cycle(self, name: str, database: str) -> Result:
        return self._run(name, "benchmarks.cycle", database)

    def profile(self, name: str, database: str) -> str:
        return self._output(name, "benchmarks.cycle", database, "--profile")

    def _run(self, variant: str, module: str, *arguments: str) -> Result:
        try:
            result: Result = json.loads(self._output(variant, module, *arguments).splitlines()[-1])
        except (CannotInstall, subprocess.SubprocessError) as error:
            return {"why": _last_words(error)}
        return result

    def _output(self, variant: str, module: str, *arguments: str) -> str:
        python = self._environments.python_for(BY_NAME[variant])
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {"BENCHMARK_VARIANT": variant, "BENCHMARK_POOL_SIZE": str(self._pool_size)}
        run = subprocess.run(
            [str(python), "-m", module, *arguments],
            cwd=self._directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=True,
        )
        return run.stdout


def _last_words(error: Exception) -> str:
    text = getattr(error, "stderr", None) or str(error)
    return str(text).strip().splitlines()[-1][:200]


def _interleaved(jobs: dict[str, Callable[[], Result]], rounds: int, figure: str) -> dict[str, Result]:
    """The best result of each job; one that fails is not tried again."""
    results: dict[str, Result] = {}
    for _ in range(rounds):
        for name, job in jobs.items():
            before = results.get(name, {})
            if "why" in before:
                continue
            result = job()
            print(f"{name}: {result}", file=sys.stderr, flush=True)
            if "why" in result or not before or result[figure] < before[figure]:
                results[name] = result
    return results


def _checkout_table(micro: Micro, rounds: int, rst: bool) -> tuple[str, dict[str, Any]]:
    native = _interleaved(
        {name: lambda name=name: micro.checkout(name, gevent=False) for name in POOLS}, rounds, "nanoseconds"
    )
    green = _interleaved(
        {name: lambda name=name: micro.checkout(name, gevent=True) for name in POOLS}, rounds, "nanoseconds"
    )
    rows = []
    notes = []
    for name in POOLS:
        if "why" in native[name] or "why" in green[name]:
            notes.append(f"{name}: does not run: {native[name].get('why') or green[name]['why']}")
            continue
        rows.append(
            [name]
            + [f"{side[name]['nanoseconds']:.0f}" for side in (native, green)]
            + [f"{side[name]['calls']:.0f}" for side in (native, green)]
        )
    head = ["", "ns", "ns, gevent", "calls", "calls, gevent"]
    text = report.render("Checkout and checkin", head, rows, rst, notes)
    return text, {"native": native, "gevent": green}


def _cycle_table(micro: Micro, database: str, rounds: int, rst: bool) -> tuple[str, dict[str, Any]]:
    names = [variant.name for variant in VARIANTS if database in variant.databases]
    results = _interleaved(
        {name: lambda name=name: micro.cycle(name, database) for name in names}, rounds, "microseconds"
    )
    floor = results[CEILING].get("microseconds", 0.0)
    rows = [
        [
            name,
            f"{result['microseconds']:.0f}",
            f"{result['microseconds'] - floor:+.0f}",
            f"{result['calls']:.0f}",
            f"{result['round_trips']:.1f}",
            f"{result['connects']:.1f}",
        ]
        for name, result in results.items()
        if "why" not in result
    ]
    notes = [f"{name}: does not run: {result['why']}" for name, result in results.items() if "why" in result]
    head = ["", "µs", "to ceiling", "calls", "round trips", "connects"]
    return report.render(f"Request cycle, {database}", head, rows, rst, notes), results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="make benchmark-micro"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pool-size", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--rst", action="store_true", help="print tables for the documentation")
    parser.add_argument(
        "--profile", metavar="NAME", help="only show where one variant's cycle spends its time"
    )
    arguments = parser.parse_args()
    with only_benchmarks() as directory:
        micro = Micro(directory, arguments.pool_size)
        if arguments.profile:
            database = BY_NAME[arguments.profile].databases[0]
            print(micro.profile(arguments.profile, database))
            return
        text, checkouts = _checkout_table(micro, arguments.rounds, arguments.rst)
        tables, results = [text], {"checkout": checkouts}
        for database in (MYSQL, POSTGRESQL):
            text, results[database] = _cycle_table(micro, database, arguments.rounds, arguments.rst)
            tables.append(text)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    print("\n\n".join(tables))


if __name__ == "__main__":
    main()
