"""The web benchmark: every variant under ``gunicorn -k gevent -w 1``, in interleaved rounds.

Round by round, each variant runs once, beginning with another one each time: what the machine does meanwhile
hits all of them. The servers are private ones, see tests/servers; there is nothing to prepare.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import report, rows
from benchmarks.environments import CannotInstall, Environments, base_requirements
from benchmarks.load import Usage
from benchmarks.measure import Case, DoesNotRun, Effort, generator_alone, measure
from benchmarks.variants import MYSQL, PGBOUNCER, POSTGRESQL, VARIANTS, Variant
from tests.e2e.observer import DATABASE, observing
from tests.servers import DatabaseServer, MariaDB, MySQL, PgBouncer, PostgreSQL

VIEWS = ["one", "mixed", "wait"]
DATABASES = [MYSQL, POSTGRESQL, PGBOUNCER]
NAMED = {variant.name: variant for variant in VARIANTS if {*DATABASES} & {*variant.databases}}
QUICK: dict[str, Any] = {
    "rounds": 2,
    "seconds": 4.0,
    "clients": [400],
    "views": ["one", "mixed"],
    "keep_alive": ["no"],
}
FULL: dict[str, Any] = {
    "rounds": 3,
    "seconds": 10.0,
    "clients": [100, 400],
    "views": VIEWS,
    "keep_alive": ["no", "yes"],
}


# Whose servers are measured as the database "mysql". MySQL's speaks TLS, the others don't.
OF_MYSQL: dict[str, Callable[[int], DatabaseServer]] = {
    "MariaDB": lambda most: MariaDB(most, tls=False),
    "MySQL": MySQL,
}

# How many of the server's connections PgBouncer shares, and among how many clients.
SHARED, CLIENTS_OF_PGBOUNCER = 5, 1000

# The machine counts as quiet if other programs use less of it than this.
QUIET_SHARE = 0.2

# One run of a variant, as measure() does it.
Measure = Callable[[Variant, Path, Case], dict[str, Any]]


class Benchmark:
    """Collects the results, and keeps them if it is interrupted."""

    def __init__(
        self, effort: Effort, conditions: dict[str, Any], environments: Environments, patience: float
    ) -> None:
        self._effort = effort
        self._environments = environments
        self._patience = patience
        self.results: dict[str, Any] = {
            "conditions": _conditions(effort, conditions),
            "generator": [],
            "runs": [],
            "failures": [],
        }

    def measure_generator(self, cases: list[Case]) -> None:
        alike = {(case.clients, case.keep_alive): case for case in cases}
        for case in alike.values():
            self.results["generator"].append(generator_alone(case, self._effort))

    def run(self, database: str, variants: list[Variant], cases: list[Case], rounds: int) -> None:
        working = [variant for variant in variants if database in variant.databases]
        # Now, not between two measurements.
        for variant in list(working):
            try:
                self._environments.python_for(variant)
            except CannotInstall as error:
                self._drop(working, variant, database, error)
        with self._measuring(database) as measure_one:
            for number, case in product(range(rounds), cases):
                turn = number % max(len(working), 1)
                for variant in working[turn:] + working[:turn]:
                    python = self._environments.python_for(variant)
                    _wait_for_others(self._patience)
                    try:
                        run = measure_one(variant, python, case)
                    except DoesNotRun as error:
                        self._drop(working, variant, database, error)
                        continue
                    self.results["runs"].append({"database": database, "round": number, **run})
                    say(f"{database}, round {number + 1}, {case}: {variant.name}: {_short(run)}")

    def _drop(self, working: list[Variant], variant: Variant, database: str, error: Exception) -> None:
        working.remove(variant)
        self.results["failures"].append({"database": database, "variant": variant.name, "why": str(error)})
        say(f"{database}: {variant.name} does not run: {error}")

    @contextmanager
    def _measuring(self, database: str) -> Iterator[Measure]:
        """While the measured server runs."""
        raise NotImplementedError


class DatabaseBenchmark(Benchmark):
    def __init__(self, effort: Effort, max_connections: int, patience: float, of_mysql: str) -> None:
        conditions = {"mysql": of_mysql, "max_connections of the server": max_connections}
        super().__init__(effort, conditions, Environments(), patience)
        self._max_connections = max_connections
        self._of_mysql = OF_MYSQL[of_mysql]

    @contextmanager
    def _measuring(self, database: str) -> Iterator[Measure]:
        with self._server(database) as server, observing(server) as observer:
            server.create(DATABASE)
            server.execute(rows.sql(), DATABASE)
            with self._in_front_of(server, database) as url:
                yield lambda variant, python, case: measure(
                    variant, python, server, observer, case, self._effort, url
                )

    @contextmanager
    def _in_front_of(self, server: DatabaseServer, database: str) -> Iterator[str | None]:
        if database != PGBOUNCER:
            yield None
            return
        settings = {"default_pool_size": SHARED, "max_client_conn": CLIENTS_OF_PGBOUNCER}
        with PgBouncer(server.port, DATABASE, **settings) as pooler:
            yield f"{server.scheme}://{pooler.user}:{pooler.password}@{pooler.host}:{pooler.port}/transaction"

    def _server(self, database: str) -> DatabaseServer:
        if database == MYSQL:
            return self._of_mysql(self._max_connections)
        # The server's log says how many connections there were.
        return PostgreSQL(
            self._max_connections, ["-c", "log_connections=on", "-c", "log_disconnections=on"], tls=False
        )


def _conditions(effort: Effort, more: dict[str, Any]) -> dict[str, Any]:
    model = next(
        (
            line.partition(": ")[2]
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "Python": platform.python_version(),
        **dict(requirement.split("==") for requirement in base_requirements()),
        **more,
        "connections of a pool": effort.pool_size,
        "seconds of a run": effort.seconds,
        "CPUs": f"{os.cpu_count()} × {model}",
        "share of them that others used before": f"{_busy():.0%}",
        "measured on": time.strftime("%Y-%m-%d"),
    }


def _busy() -> float:
    """The load of the machine while nothing is measured. If it is high, the figures are worthless."""
    before = Usage([])
    time.sleep(1)
    return Usage([]).since(before)["machine"]


def _wait_for_others(seconds: float) -> None:
    """Wait until the machine is quiet, but not longer than that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and _busy() > QUIET_SHARE:
        pass


def _short(run: dict[str, Any]) -> str:
    return (
        f"{run['requests_per_second']:.0f} req/s, p99 {run['p99_ms']:.0f} ms,"
        f" {run['connections']} connections, {run['errors']} errors,"
        f" {run['without_answer']} clients without an answer"
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--patience",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help=f"most to wait before each run until others use less than {QUIET_SHARE:.0%}% of the machine",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all runs there")
    parser.add_argument("--rst", action="store_true", help="print tables for the documentation")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="make benchmark"
    )
    parser.add_argument("--full", action="store_true", help=f"instead of {QUICK}: {FULL}")
    parser.add_argument("--database", nargs="+", choices=DATABASES, default=[MYSQL, POSTGRESQL])
    parser.add_argument("--mysql", choices=OF_MYSQL, default="MariaDB", help="whose server mysql's is")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of measuring, after --warm-up")
    parser.add_argument("--warm-up", type=float, default=1.5, help="seconds before that")
    parser.add_argument("--clients", type=int, nargs="+")
    parser.add_argument("--views", nargs="+", choices=VIEWS)
    parser.add_argument("--keep-alive", nargs="+", choices=["no", "yes"])
    parser.add_argument("--variants", nargs="+", choices=list(NAMED), metavar="NAME", help=", ".join(NAMED))
    parser.add_argument("--pool-size", type=int, default=20, help="most connections of each pool")
    parser.add_argument("--max-connections", type=int, default=500, help="of the database server")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    for name, value in (FULL if arguments.full else QUICK).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def main() -> None:
    arguments = _arguments()
    variants = [NAMED[name] for name in arguments.variants] if arguments.variants else VARIANTS
    cases = [
        Case(view, clients, keep_alive == "yes")
        for view, clients, keep_alive in product(arguments.views, arguments.clients, arguments.keep_alive)
    ]
    effort = Effort(arguments.warm_up, arguments.seconds, arguments.pool_size)
    benchmark = DatabaseBenchmark(effort, arguments.max_connections, arguments.patience, arguments.mysql)
    try:
        benchmark.measure_generator(cases)
        for database in arguments.database:
            benchmark.run(database, variants, cases, arguments.rounds)
    except KeyboardInterrupt:
        say("interrupted; this is what there is")
    if arguments.json:
        arguments.json.write_text(json.dumps(benchmark.results, indent=1))
    print(report.tables(benchmark.results, arguments.rst))


if __name__ == "__main__":
    main()
