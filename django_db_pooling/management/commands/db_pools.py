"""What the pools of all processes of the site do, as a table, as JSON, or as an exit status."""

from __future__ import annotations

import json
import shutil
import time
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from django_db_pooling.log import redact
from django_db_pooling.management import plan
from django_db_pooling.management.table import COLUMNS, table
from django_db_pooling.workers import overview, status_dir
from django_db_pooling.workers.overview import Overview

EXIT_WAITING = 1
EXIT_NOBODY = 2
NOBODY = (
    "No process of this site has told anything. One tells about its pools, every second, once it has asked a "
    "database for the first time, and until ten seconds after it was heard last. This command hears those on "
    'its own host that run as the same user, have "django_db_pooling" in INSTALLED_APPS, and the same '
    "SECRET_KEY and TMPDIR or DB_POOL_STATUS_DIR; it looked into {}."
)
REFUSED = "No process of this site is heard, since none can tell the others anything: {}."
SILENT = "The processes of this site tell nothing, since DB_POOL_STATUS_DIR is None."


class Command(BaseCommand):
    help = (
        "Shows what the connection pools of all processes of this site on this host do. Exits with 2 where "
        "no process is heard."
    )
    # It has to work when the database doesn't.
    requires_system_checks = []
    requires_migrations_checks = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--json", action="store_true", help="everything, as JSON")
        what.add_argument(
            "--plan",
            action="store_true",
            help="compare what all processes may open with what each server takes, which is asked; exit with "
            "1 where it is too much",
        )
        parser.add_argument(
            "--watch",
            nargs="?",
            type=float,
            const=2.0,
            metavar="SECONDS",
            help="again and again, every 2 seconds if not said otherwise",
        )
        parser.add_argument(
            "--fail-if-waiting",
            type=int,
            metavar="N",
            help="exit with 1 where more than N callers wait for a connection",
        )
        parser.add_argument(
            "--hosts", type=_positive, default=1, metavar="N", help="of --plan: hosts with as many processes"
        )
        parser.add_argument(
            "--workers",
            type=_positive,
            metavar="N",
            help="of --plan: processes on a host; left out, those that are heard",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["plan"]:
            self._plan(options["hosts"], options["workers"])
        elif options["watch"] is None:
            self._show(options["json"], options["fail_if_waiting"])
        else:
            self._watch(options["watch"], options["json"], options["fail_if_waiting"])

    def _show(self, as_json: bool, most_waiting: int | None) -> None:
        # Not this process: nobody is served by it.
        seen = overview.look(own=False)
        if not seen.workers:
            if as_json:
                self.stdout.write(json.dumps(seen.as_dict()))
            raise CommandError(_nobody(), returncode=EXIT_NOBODY)
        self._write(json.dumps(seen.as_dict()) if as_json else table(seen, _columns()))
        _check(seen, most_waiting)

    def _watch(self, seconds: float, as_json: bool, most_waiting: int | None) -> None:
        clears = not as_json and self.stdout.isatty()
        try:
            while True:
                seen = overview.look(own=False)
                shown = table(seen, _columns()) if seen.workers else _nobody()
                if clears:
                    self.stdout.write("\033[H\033[2J\033[3J", ending="")
                self._write(json.dumps(seen.as_dict()) if as_json else f"{shown}\n")
                self.stdout.flush()
                _check(seen, most_waiting)
                time.sleep(max(seconds, 0.1))
        except KeyboardInterrupt:
            # Somebody has seen enough.
            return

    def _write(self, text: str) -> None:
        """Also where a path has characters that the terminal's encoding doesn't have."""
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        self.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def _plan(self, hosts: int, processes: int | None) -> None:
        seen = overview.look(own=False)
        if processes is None:
            if not seen.workers:
                raise CommandError(f"{_nobody()} Or say how many: --workers N.", returncode=EXIT_NOBODY)
            processes = len(seen.workers)
        demands = plan.demands(seen, hosts * processes)
        for server, demand in demands.items():
            self._write("\n".join(plan.lines(server, demand, hosts)))
        if not demands:
            self.stdout.write("No pool of this site connects to a server with a connection limit.")
        if not all(demand.fits for demand in demands.values()):
            raise CommandError("The processes may open more connections than a server accepts.", returncode=1)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError("it must be a whole number, 1 or more")
    return int(text)


def _columns() -> int:
    return max(COLUMNS, shutil.get_terminal_size((COLUMNS, 24)).columns)


def _nobody() -> str:
    if not status_dir.is_on():
        return SILENT
    refusal = status_dir.refusal()
    return NOBODY.format(redact(status_dir.path())) if refusal is None else REFUSED.format(redact(refusal))


def _check(seen: Overview, most_waiting: int | None) -> None:
    if most_waiting is not None and seen.waiting > most_waiting:
        raise CommandError(
            f"{seen.waiting} callers wait for a connection, more than {most_waiting}.",
            returncode=EXIT_WAITING,
        )
