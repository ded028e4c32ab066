"""Tables from the runs of a benchmark: ``python -m benchmarks.report results.json``, also as RST.

Throughput, latencies and CPU are medians over the rounds. Maxima, clients without an answer and connections
are those of the worst round, errors are the sum of all.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.variants import CEILING, FAIR_CEILING, VARIANTS

Run = dict[str, Any]
Case = tuple[str, str, int, bool]


def _median(name: str, form: str) -> Callable[[list[Run]], str]:
    return lambda runs: format(median(run[name] for run in runs), form)


def _worst(name: str, form: str) -> Callable[[list[Run]], str]:
    return lambda runs: format(max(run[name] for run in runs), form)


def _total(name: str) -> Callable[[list[Run]], str]:
    return lambda runs: str(sum(run[name] for run in runs))


COLUMNS: dict[str, Callable[[list[Run]], str]] = {
    "req/s": _median("requests_per_second", ".0f"),
    "of ceiling": _median("of_ceiling", ".2f"),
    "of in order": _median("of_fair_ceiling", ".2f"),
    "p50 ms": _median("p50_ms", ".0f"),
    "p99 ms": _median("p99_ms", ".0f"),
    "max ms": _worst("max_ms", ".0f"),
    "no answer": _worst("without_answer", "d"),
    "CPU ms/req": _median("cpu_ms_per_request", ".2f"),
    "connections": _worst("connections", "d"),
    "connects/req": _median("connects_per_request", ".3f"),
    "errors": _total("errors"),
    "generator": _median("generator_share", ".0%"),
}
WAIT_COLUMNS: dict[str, Callable[[list[Run]], str]] = {
    "wait p50 ms": _median("wait_p50_ms", ".2f"),
    "wait max ms": _worst("wait_max_ms", ".2f"),
    "max/p50": _worst("wait_ratio", ".1f"),
}
# Of the view that queries a directory: a row for each variant and number of clients.
DIRECTORY_COLUMNS: dict[str, Callable[[list[Run]], str]] = {
    "clients": lambda runs: str(runs[0]["clients"]),
    "req/s": _median("requests_per_second", ".0f"),
    "p50 ms": _median("p50_ms", ".0f"),
    "p95 ms": _median("p95_ms", ".0f"),
    "max ms": _worst("max_ms", ".0f"),
    "errors": _total("errors"),
    "no answer": _worst("without_answer", "d"),
    "CPU ms/req": _median("cpu_ms_per_request", ".2f"),
    "connections": _worst("connections", "d"),
    "searches/req": _median("searches_per_request", ".2f"),
    "binds/req": _median("binds_per_request", ".2f"),
    "longest gap ms": _worst("gap_ms", ".0f"),
    # The share of the CPUs that other programs used.
    "others": _median("others_share", ".0%"),
}


def tables(results: dict[str, Any], rst: bool) -> str:
    """All tables of one benchmark, as text for a terminal or for the documentation."""
    parts = [_conditions(results)]
    if results["generator"]:
        parts.append(_generator(results["generator"], rst))
    for case in _cases(results["runs"]):
        runs = [run for run in results["runs"] if _case(run) == case]
        absent = [failure for failure in results["failures"] if failure["database"] == case[0]]
        if case[1] == "user":
            parts.append(_directory_table(case, runs, absent, rst))
        else:
            _compare(runs)
            parts.append(_table_of(case, runs, absent, rst))
    return "\n\n".join(parts)


def _conditions(results: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in results["conditions"].items()) + "."


def _generator(runs: list[Run], rst: bool) -> str:
    rows = [
        [
            f"{run['clients']}, {'' if run['keep_alive'] else 'no '}keep-alive",
            f"{run['requests_per_second']:.0f}",
            f"{run['generator_share'] / max(run['requests_per_second'], 1) * 1e6:.0f}",
        ]
        for run in runs
    ]
    title = "The load generator with a site that costs nothing"
    return render(title, ["clients", "req/s", "µs/req"], rows, rst)


def _case(run: Run) -> Case:
    """What identifies a table."""
    clients = 0 if run["view"] == "user" else run["clients"]
    return run["database"], run["view"], clients, run["keep_alive"]


def _cases(runs: Iterable[Run]) -> list[Case]:
    return list(dict.fromkeys(_case(run) for run in runs))


def _compare(runs: list[Run]) -> None:
    """Each compared with the ceilings of its own round; 0 if that was not measured."""
    speeds = {(run["round"], run["variant"]): run["requests_per_second"] for run in runs}
    for run in runs:
        for name, variant in (("of_ceiling", CEILING), ("of_fair_ceiling", FAIR_CEILING)):
            ceiling = speeds.get((run["round"], variant), 0)
            run[name] = run["requests_per_second"] / ceiling if ceiling else 0.0
        run["wait_ratio"] = run["wait_max_ms"] / run["wait_p50_ms"] if run["wait_p50_ms"] else 0.0


def _table_of(case: Case, runs: list[Run], absent: list[Run], rst: bool) -> str:
    database, view, clients, keep_alive = case
    title = f"{database}, {view}, {clients} clients, {'with' if keep_alive else 'without'} keep-alive"
    columns = {**COLUMNS, **(WAIT_COLUMNS if view == "wait" else {})}
    rows = []
    for variant in VARIANTS:
        own = [run for run in runs if run["variant"] == variant.name]
        if own:
            rows.append([variant.name, *(tell(own) for tell in columns.values())])
    return render(title, ["", *columns], rows, rst, _notes(runs, absent))


def _directory_table(case: Case, runs: list[Run], absent: list[Run], rst: bool) -> str:
    database, view, _, keep_alive = case
    title = f"{database}, {view}, {'with' if keep_alive else 'without'} keep-alive"
    rows = []
    for variant, clients in product(VARIANTS, sorted({run["clients"] for run in runs})):
        own = [run for run in runs if (run["variant"], run["clients"]) == (variant.name, clients)]
        if own:
            rows.append([variant.name, *(tell(own) for tell in DIRECTORY_COLUMNS.values())])
    return render(title, ["", *DIRECTORY_COLUMNS], rows, rst, _notes(runs, absent))


def _notes(runs: list[Run], absent: list[Run]) -> list[str]:
    notes = [f"{failure['variant']}: does not run: {failure['why']}" for failure in absent]
    return notes + _worst_errors(runs)


def _worst_errors(runs: list[Run]) -> list[str]:
    notes = []
    for name in dict.fromkeys(run["variant"] for run in runs):
        errors: Counter[str] = Counter()
        for run in runs:
            if run["variant"] == name:
                errors.update(run["error_texts"])
        for text, count in errors.most_common(2):
            notes.append(f"{name}: {count} × {' '.join(text.split())[:100]}")
    return notes


def render(title: str, head: list[str], rows: list[list[str]], rst: bool, notes: Sequence[str] = ()) -> str:
    """A table with a title above and notes below."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    widths[0] = max(widths[0], 1)

    def line(cells: list[str]) -> str:
        first, *others = cells
        numbers = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        return "  ".join([first.ljust(widths[0]), *numbers]).rstrip()

    body = [line(row) for row in rows]
    if not rst:
        return "\n".join([title, line(head), *body, *(f"  {note}" for note in notes)])
    # reStructuredText doesn't accept an empty first cell.
    rule = "  ".join("=" * width for width in widths)
    named = line([head[0] or "\\", *head[1:]])
    table = [title, "~" * len(title), "", rule, named, rule, *body, rule]
    return "\n".join([*table, *([""] if notes else []), *(f"- {note}" for note in notes)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="what run.py --json has written")
    parser.add_argument("--rst", action="store_true", help="for the documentation")
    arguments = parser.parse_args()
    print(tables(json.loads(arguments.results.read_text()), arguments.rst))


if __name__ == "__main__":
    main()
