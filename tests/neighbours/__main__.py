"""The program; see --help."""

from __future__ import annotations

import argparse
import csv
import json
import signal
import sys
from pathlib import Path

from tests.environments import CannotInstall
from tests.neighbours import compare
from tests.neighbours.neighbours import NEIGHBOURS, Neighbour
from tests.neighbours.run import RunFailed, Runner
from tests.neighbours.spec import SCOPES, Report
from tests.servers import ServerError

DESCRIPTION = """\
Use packages that do something with Django's connections, without the pool and with it, in each scope, and
compare. The exit status is 0 if nothing differs but what is listed in tests/neighbours/differences.csv, and
all of that does. Writes tests/neighbours/works_with.csv, the table of the documentation: the rows of what was
run, if that was in both scopes."""

TABLE = Path(__file__).with_name("works_with.csv")
COLUMNS = ["Package", "Version", "Databases", "What it does with connections", "Request", "Transaction"]
SAME, NOT_SAME, KNOWN = "the same", "**not the same**", "see :doc:`differences`"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.neighbours", description=DESCRIPTION)
    parser.add_argument(
        "--neighbour",
        action="append",
        choices=NEIGHBOURS,
        help="may be repeated; default: all",
        metavar="NAME",
    )
    parser.add_argument(
        "--scope", action="append", choices=SCOPES, help="may be repeated; default: both", metavar="NAME"
    )
    parser.add_argument("--show", action="store_true", help="what the probes return without the pool")
    parser.add_argument("--list", action="store_true", help="show the names, and run nothing")
    return parser.parse_args()


class Outcome:
    """Of one neighbour, on all of its databases."""

    def __init__(self, neighbour: Neighbour) -> None:
        self.neighbour = neighbour
        self.version = ""
        # By scope.
        self.words = dict.fromkeys(SCOPES, SAME)

    def judge(self, database: str, scope: str, plain: Report, patched: Report) -> bool:
        name = self.neighbour.name
        listed = compare.concerning(compare.known(), name, database, scope)
        wrong = list(compare.complaints(self.neighbour, database, plain, patched, listed))
        title = f"{name} {database} {scope}"
        for complaint in wrong:
            print(f"FAILED {title}: {complaint}")
        counts = f"{len(patched.results)} probes, {patched.stats.get('checkouts')} checkouts"
        counts += f", at most {patched.most} connections" if patched.most else ""
        print(f"{'FAILED' if wrong else 'ok'} {title}: {counts}", flush=True)
        self.version = patched.version
        if wrong:
            self.words[scope] = NOT_SAME
        elif listed and self.words[scope] == SAME:
            self.words[scope] = KNOWN
        return not wrong

    def row(self) -> dict[str, str]:
        one = self.neighbour
        cells = [one.name, self.version, ", ".join(one.databases), one.does, *self.words.values()]
        return dict(zip(COLUMNS, cells, strict=True))


def try_out(runner: Runner, outcome: Outcome, scopes: list[str], show: bool) -> bool:
    neighbour, well = outcome.neighbour, True
    for database in neighbour.databases:
        try:
            plain = runner.run(neighbour, database, None)
        except (RunFailed, CannotInstall, ServerError) as error:
            print(f"FAILED {error}", flush=True)
            outcome.words = dict.fromkeys(SCOPES, NOT_SAME)
            return False
        if show:
            print(f"{neighbour.name} {database}: {json.dumps(plain.results, indent=1)}")
        for scope in scopes:
            try:
                patched = runner.run(neighbour, database, scope)
            except (RunFailed, ServerError) as error:
                print(f"FAILED {error}", flush=True)
                outcome.words[scope] = NOT_SAME
                well = False
            else:
                well &= outcome.judge(database, scope, plain, patched)
    return well


def write_row(outcome: Outcome, path: Path = TABLE) -> None:
    """This row new, others as they were, in the order of the list."""
    rows = {}
    if path.exists():
        with path.open(newline="") as lines:
            rows = {row["Package"]: row for row in csv.DictReader(lines)}
    rows[outcome.neighbour.name] = outcome.row()
    with path.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[name] for name in NEIGHBOURS if name in rows)


def main() -> int:
    options = parse_arguments()
    if options.list:
        for neighbour in NEIGHBOURS.values():
            print(f"{neighbour.name:34} {', '.join(neighbour.databases)}: {neighbour.does}")
        return 0
    # As Ctrl-C does, so that no server is left behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    scopes = options.scope or list(SCOPES)
    well = True
    with Runner() as runner:
        for name in options.neighbour or NEIGHBOURS:
            outcome = Outcome(NEIGHBOURS[name])
            well &= try_out(runner, outcome, scopes, options.show)
            if set(scopes) == set(SCOPES):
                write_row(outcome)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
