"""The instructions of a request cycle, counted by callgrind: a measure that other load doesn't change.

``request_started``, one query on a stub driver, ``request_finished``, in a fresh greenlet: one request at a
time, and many at a time on fewer connections, where the stub lets the others run before each answer. Each
figure is taken by a process of its own in the variant's environment, with a fixed seed for hashes, without
randomized addresses and with a clock that stands still. What the garbage collector does is in it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from compileall import compile_dir
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import report
from benchmarks.environments import ROOT, Environments, only_benchmarks
from benchmarks.variants import BY_NAME, CEILING, FAIR_CEILING, MYSQL, POSTGRESQL, TREE, Variant
from tests.environments import CannotInstall

RUN_SECONDS = 300.0
POOL_SIZE = 20
NAMES = [
    CEILING,
    FAIR_CEILING,
    "django_db_pooling",
    "django_db_pooling, transactions",
    "django_db_pooling 0.0.4",
]
MARKS = Path(__file__).with_name("callgrind.c")


@dataclass(frozen=True)
class Case:
    """``transaction``: the query is in an atomic()."""

    database: str
    transaction: bool
    at_once: int

    def __str__(self) -> str:
        query = "atomic() with one query" if self.transaction else "one query"
        return f"{self.database}, {query}, {self.at_once} at a time"


class Counting:
    """Runs a variant under callgrind. ``directory``: where to run it; ``python``: the interpreter for it."""

    def __init__(self, directory: Path, python: Callable[[Variant], Path], requests: int, seeds: int) -> None:
        self._directory = directory
        self._python = python
        self._requests = requests
        self._seeds = seeds
        # As an installed package has it: what is compiled first has other addresses later.
        for name in ("benchmarks", "django_db_pooling"):
            compile_dir(directory / name, quiet=2)

    def instructions(self, name: str, case: Case) -> float:
        """Of one request: the mean over the seeds, which differ by what hashes and addresses happen to do."""
        return mean(self._with_seed(name, case, seed) for seed in range(self._seeds))

    def _with_seed(self, name: str, case: Case, seed: int) -> float:
        with tempfile.TemporaryDirectory(prefix="callgrind-") as directory:
            out = Path(directory) / "out"
            callgrind = ["--tool=callgrind", "--instr-atstart=no", "--quiet", f"--callgrind-out-file={out}"]
            self._run(name, case, seed, under=["setarch", "-R", "valgrind", *callgrind])
            # The first of its dumps.
            lines = Path(f"{out}.1").read_text().splitlines()
        total = next(line for line in lines if line.startswith("totals:"))
        return int(total.split()[1]) / self._requests

    def functions(self, name: str, case: Case) -> list[dict[str, Any]]:
        """The Python functions that are called in one request."""
        printed = self._run(name, case, 0, "--functions")
        functions: list[dict[str, Any]] = json.loads(printed.splitlines()[-1])
        for function in functions:
            function["calls"] /= self._requests
        return functions

    def _run(self, name: str, case: Case, seed: int, *more: str, under: Sequence[str] = ()) -> str:
        arguments = [case.database, f"--at-once={case.at_once}", f"--requests={self._requests}", *more]
        if case.transaction:
            arguments.append("--transaction")
        # The same for everybody: its size moves what is behind it.
        environment = {
            variable: os.environ[variable] for variable in ("HOME", "PATH") if variable in os.environ
        }
        environment |= {"BENCHMARK_VARIANT": name, "BENCHMARK_POOL_SIZE": str(POOL_SIZE)}
        with tempfile.TemporaryDirectory(prefix="marks-") as directory:
            marks = str(Path(directory) / "marks.so")
            subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", marks, MARKS], check=True)
            run = subprocess.run(
                [*under, str(self._python(BY_NAME[name])), "-m", "benchmarks.steady", *arguments],
                cwd=self._directory,
                env=environment
                | {"BENCHMARK_MARKS": marks, "LD_PRELOAD": marks, "PYTHONHASHSEED": str(seed)},
                capture_output=True,
                text=True,
                timeout=RUN_SECONDS,
            )
        if run.returncode:
            raise Failed(run.stderr.strip())
        return run.stdout


class Failed(Exception):
    """The run's last words."""


def _measure(
    names: list[str], cases: list[Case], processes: int, count: Callable[[str, Case], Any]
) -> dict[tuple[str, Case], Any]:
    """What was counted for each, or why it could not be."""

    def one(job: tuple[str, Case]) -> Any:
        name, case = job
        try:
            figure = count(name, case)
        except (CannotInstall, Failed) as error:
            print(f"{name}: {case}: {error}", file=sys.stderr, flush=True)
            return None
        print(f"{name}: {case}: {_short(figure)}", file=sys.stderr, flush=True)
        return figure

    jobs = list(product(names, cases))
    with ThreadPoolExecutor(processes) as executor:
        return dict(zip(jobs, executor.map(one, jobs), strict=True))


def _short(figure: Any) -> str:
    return f"{figure / 1000:.1f} k" if isinstance(figure, float) else "counted"


def _tables(figures: dict[tuple[str, Case], float | None], names: list[str], rst: bool) -> str:
    cases = list(dict.fromkeys(case for _, case in figures))
    return "\n\n".join(
        _table(figures, names, [case for case in cases if (case.database, case.transaction) == group], rst)
        for group in dict.fromkeys((case.database, case.transaction) for case in cases)
    )


def _table(
    figures: dict[tuple[str, Case], float | None], names: list[str], cases: list[Case], rst: bool
) -> str:
    head = [""]
    for case in cases:
        head += [f"{case.at_once} at a time", "of ceiling", "of in order"]
    rows = []
    notes = []
    for name in names:
        row = [name]
        for case in cases:
            figure = figures[name, case]
            if figure is None:
                notes.append(f"{name}: {case}: does not run")
                row += ["", "", ""]
                continue
            row.append(f"{figure / 1000:.0f} k")
            for ceiling in (CEILING, FAIR_CEILING):
                floor = figures.get((ceiling, case))
                row.append(f"{figure / floor:.3f}" if floor else "")
        rows.append(row)
    return report.render(f"Instructions, {str(cases[0]).rpartition(',')[0]}", head, rows, rst, notes)


def _functions(name: str, case: Case, functions: list[dict[str, Any]]) -> str:
    """The package's first, then the others, the most frequent first."""
    package = sum(function["calls"] for function in functions if function["package"])
    others = sum(function["calls"] for function in functions if not function["package"])
    lines = [f"{name}: {case}: {package:.1f} calls of functions of the package, {others:.1f} of others"]
    for function in sorted(functions, key=lambda function: (not function["package"], -function["calls"])):
        path, _, rest = function["place"].rpartition(":")
        lines.append(f"{function['calls']:8.2f}  {'/'.join(Path(path).parts[-3:])}:{rest}")
    return "\n".join([*lines, ""])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="make benchmark-instructions",
    )
    parser.add_argument(
        "--here",
        action="store_true",
        help="no environments: the present interpreter and working directory; without what needs more",
    )
    parser.add_argument(
        "--functions",
        action="store_true",
        help="instead, how often which Python functions are called, the package's first",
    )
    parser.add_argument("--database", nargs="+", choices=[MYSQL, POSTGRESQL], default=[MYSQL, POSTGRESQL])
    parser.add_argument("--variants", nargs="+", choices=NAMES, metavar="NAME", default=NAMES)
    parser.add_argument("--work", nargs="+", choices=["query", "atomic"], default=["query", "atomic"])
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 100], help="requests at a time")
    parser.add_argument("--requests", type=int, default=200, help="that are counted in a run")
    parser.add_argument("--seeds", type=int, help="runs for each figure; 3, with --here 1")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that run side by side")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--rst", action="store_true", help="print tables for the documentation")
    arguments = parser.parse_args()
    arguments.seeds = arguments.seeds or (1 if arguments.here else 3)
    return arguments


def _run(arguments: argparse.Namespace, directory: Path, python: Callable[[Variant], Path]) -> str:
    names = arguments.variants
    if arguments.here:
        names = [name for name in names if {*BY_NAME[name].requires} <= {TREE}]
    cases = [
        Case(database, work == "atomic", at_once)
        for database, work, at_once in product(arguments.database, arguments.work, arguments.at_once)
    ]
    counting = Counting(directory, python, arguments.requests, arguments.seeds)
    if arguments.functions:
        calls = _measure(names, cases, arguments.processes, counting.functions)
        return "\n".join(_functions(*job, found) for job, found in calls.items() if found is not None)
    figures = _measure(names, cases, arguments.processes, counting.instructions)
    if arguments.json:
        rows = [
            {"variant": name, **asdict(case), "instructions": count}
            for (name, case), count in figures.items()
        ]
        arguments.json.write_text(json.dumps(rows, indent=1))
    return _tables(figures, names, arguments.rst)


def main() -> None:
    arguments = _arguments()
    if shutil.which("valgrind") is None and not arguments.functions:
        raise SystemExit("valgrind is missing: make benchmark-instructions installs it on Debian")
    if arguments.here:
        print(_run(arguments, ROOT, lambda variant: Path(sys.executable)))
        return
    environments = Environments()
    # One after the other: they are made at first use.
    for name in arguments.variants:
        try:
            environments.python_for(BY_NAME[name])
        except CannotInstall as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    with only_benchmarks() as directory:
        print(_run(arguments, directory, environments.python_for))


if __name__ == "__main__":
    main()
