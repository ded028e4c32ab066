"""The program; see --help."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import django

from tests.conformance import compare, requirements
from tests.conformance.databases import ALIASES, DATABASES
from tests.conformance.groups import GROUPS
from tests.conformance.runs import Run, RunFailed, report_of, stop
from tests.conformance.source import SourceError, django_tests
from tests.conformance.spec import SCOPES, Report
from tests.servers import ServerError

DESCRIPTION = """\
Run Django's own test suite without the patch and with it, in each scope, and compare how each test ends. The
exit status is 0 if nothing differs but the tests that are listed in tests/conformance/exceptions.csv, and all
of these do."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=DESCRIPTION)
    parser.add_argument(
        "--database", action="append", choices=DATABASES, help="may be repeated; default: all", metavar="NAME"
    )
    parser.add_argument(
        "--group", action="append", choices=GROUPS, help="may be repeated; default: all", metavar="NAME"
    )
    parser.add_argument(
        "--scope", action="append", choices=SCOPES, help="may be repeated; default: both", metavar="NAME"
    )
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="instead of the labels of the groups")
    parser.add_argument(
        "--parallel", type=int, default=1, metavar="N", help="processes of each run; default: 1"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="runs side by side; default: as many as there are processors",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="don't use what was kept of earlier runs without the patch"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=3600.0,
        metavar="S",
        help="longest that a run may take; default: 3600",
    )
    return parser.parse_args(arguments)


def planned(options: argparse.Namespace) -> Iterator[tuple[Run, list[Run]]]:
    """Runs without the patch, each with those with the patch that are compared with it."""
    for name in options.group or GROUPS:
        group = GROUPS[name]
        for database in options.database or DATABASES:
            labels = tuple(options.labels or group.labels)
            unpatched = Run(database, name, labels, group.transactions, options.parallel)
            yield unpatched, [replace(unpatched, scope=scope) for scope in options.scope or SCOPES]


def report(run: Run, options: argparse.Namespace) -> Report:
    began = time.monotonic()
    told = report_of(run, options.seconds, options.fresh)
    print(f"{run}: {len(told.verdicts)} tests in {time.monotonic() - began:.0f} s", flush=True)
    return told


@dataclass(frozen=True)
class Outcome:
    """A run with the patch and the one without it, under way."""

    run: Run
    unpatched: Future[Report]
    patched: Future[Report]

    def conclude(self) -> bool:
        """Wait for both, print what is to be said. Whether all is well."""
        run = self.run
        title = f"{run.database} {run.group} {run.scope}"
        try:
            unpatched, patched = self.unpatched.result(), self.patched.result()
        except (RunFailed, ServerError, SourceError) as error:
            print(f"FAILED {title}: {error}", flush=True)
            return False
        listed = [exception for exception in compare.exceptions() if exception.concerns(run)]
        aliases = ALIASES if run.labels == GROUPS[run.group].labels else ()
        wrong = list(compare.complaints(unpatched, patched, listed, run.labels, aliases))
        skipped = sum(verdict == "skip" for verdict in patched.verdicts.values())
        failing = len(compare.failing_anyway(unpatched, patched))
        differ = len(compare.differences(unpatched, patched))
        checkouts = ", ".join(f"{alias} {counts['checkouts']}" for alias, counts in patched.stats.items())
        for complaint in wrong:
            print(f"FAILED {title}: {complaint}")
        print(
            f"{'FAILED' if wrong else 'ok'} {title}: {len(patched.verdicts)} tests, {differ} differ, "
            f"{failing} fail both times, {skipped} are skipped; checkouts: {checkouts}",
            flush=True,
        )
        return not wrong


def main() -> int:
    options = parse_arguments()
    # As Ctrl-C does, so that no run is left behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        requirements.check(options.database or list(DATABASES))
        tests = django_tests()
        print(f"Django {django.get_version()}: {tests}", flush=True)
    except (requirements.Missing, SourceError) as error:
        sys.exit(f"FAILED: {error}")
    for label in options.labels or ():
        if not (tests / label.split(".")[0]).is_dir():
            sys.exit(f"FAILED: Django {django.get_version()} has no tests of {label}")
    with ThreadPoolExecutor(options.jobs) as executor:
        try:
            outcomes = []
            for unpatched, patched in planned(options):
                without = executor.submit(report, unpatched, options)
                outcomes += [Outcome(run, without, executor.submit(report, run, options)) for run in patched]
            well = [outcome.conclude() for outcome in outcomes]
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            stop()
            raise
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
