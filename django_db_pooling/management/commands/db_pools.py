"""The pools of all processes of the site on this host: as a table, as JSON, or as an exit status.

It can also pause them, and have their connections closed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from django_db_pooling import conf, status_dir
from django_db_pooling.log import redact
from django_db_pooling.management import orders, plan
from django_db_pooling.management.orders import REFUSED
from django_db_pooling.management.table import COLUMNS, table
from django_db_pooling.workers import overview
from django_db_pooling.workers.commands import MAX_PAUSE, PAUSE, Action
from django_db_pooling.workers.overview import Overview

EXIT_WAITING = 1
EXIT_NO_PROCESS = 2
# Between two looks at the reports, which are written every second.
LOOK_SECONDS = 0.5
NO_PROCESS = """\
No process of this site reports its pools in {}.
- A process reports every second, from its first database query on: has there been a request?
- It is considered gone after ten seconds without a report.
- It has to run on this host, as the same user, with the same SECRET_KEY, default database (HOST, PORT, NAME),
  and TMPDIR or DB_POOL_STATUS_DIR.
- It needs "django_db_pooling" in INSTALLED_APPS."""
NOT_POOLED = "No alias of DATABASES is pooled: each has POOL False or no ENGINE."
OFF = "Reports are switched off: DB_POOL_STATUS_DIR is None."


class Command(BaseCommand):
    help = (
        "Shows the connection pools of all processes of this site on this host. Exits with 2 if no process "
        "reports."
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
            help="ask each server for its connection limit and compare it with what all processes may open; "
            "exit with 1 if that is too much",
        )
        what.add_argument(
            "--pause",
            nargs="?",
            type=_pause_seconds,
            const=PAUSE,
            metavar="SECONDS",
            help="hand out no connection for so many seconds, 60 by default: callers wait in line, and what "
            "is in use is closed when it is returned",
        )
        what.add_argument("--resume", action="store_true", help="end a pause now")
        what.add_argument(
            "--recycle", action="store_true", help="replace every connection when it is returned"
        )
        what.add_argument("--close-idle", action="store_true", help="close connections that are not in use")
        parser.add_argument("--alias", help="for these: one database; left out, all")
        parser.add_argument(
            "--wait",
            action="store_true",
            help="for --pause: until no process has a connection any more; exit with 1 if that takes longer "
            "than the pause",
        )
        parser.add_argument(
            "--watch",
            nargs="?",
            type=_seconds,
            const=2.0,
            metavar="SECONDS",
            help="repeat, every 2 seconds by default",
        )
        parser.add_argument(
            "--fail-if-waiting",
            type=_count,
            metavar="N",
            help="exit with 1 if more than N callers wait for a connection",
        )
        parser.add_argument(
            "--for",
            type=_seconds,
            dest="lasting",
            metavar="SECONDS",
            help="for --fail-if-waiting: only if that many wait for so long without a break",
        )
        parser.add_argument(
            "--hosts", type=_positive, metavar="N", help="for --plan: number of hosts, 1 by default"
        )
        parser.add_argument(
            "--workers",
            type=_positive,
            metavar="N",
            help="for --plan: processes on each host; by default those that report now",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        action = next((action for action in Action if _is_given(action, options)), None)
        if options["lasting"] is not None and options["fail_if_waiting"] is None:
            raise CommandError("--for goes with --fail-if-waiting.")
        if options["wait"] and action is not Action.PAUSE:
            raise CommandError("--wait goes with --pause.")
        if options["alias"] is not None and action is None:
            raise CommandError("--alias goes with --pause, --resume, --recycle and --close-idle.")
        if (options["hosts"] or options["workers"]) is not None and not options["plan"]:
            raise CommandError("--hosts and --workers go with --plan.")
        crowd = Crowd(options["fail_if_waiting"], options["lasting"] or 0.0)
        try:
            if action is not None:
                self._order(action, options["alias"], options["pause"], options["wait"])
            elif options["plan"]:
                self._plan(options["hosts"] or 1, options["workers"])
            elif options["watch"] is None:
                self._show(options["json"], crowd)
            else:
                self._watch(options["watch"], options["json"], crowd)
            self.stdout.flush()
        except BrokenPipeError:
            # Nobody reads any more. Python would flush once more at its end, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _order(self, action: Action, alias: str | None, seconds: float | None, waits: bool) -> None:
        names = ", ".join(map(redact, orders.aliases(alias)))
        seen = overview.look(own=False)
        if not seen.workers:
            raise CommandError(_no_process(), returncode=EXIT_NO_PROCESS)
        orders.give(action, alias, seconds)
        if not waits:
            self._write(f"{action} {names}: in {len(seen.workers)} processes within a second")
            return
        began = time.monotonic()
        seconds = seconds or 0.0
        orders.wait_until_unused(alias, seconds)
        left = seconds - (time.monotonic() - began)
        self._write(f"{names}: paused, nothing is in use, for {left:.0f} s more. --resume ends it.")

    def _show(self, as_json: bool, crowd: Crowd) -> None:
        # Not this process, which serves no requests.
        seen = overview.look(own=False)
        while seen.workers and crowd.may_end(seen):
            time.sleep(LOOK_SECONDS)
            seen = overview.look(own=False)
        if not seen.workers:
            if as_json:
                self.stdout.write(json.dumps(seen.as_dict()))
            raise CommandError(_no_process(), returncode=EXIT_NO_PROCESS)
        self._write(json.dumps(seen.as_dict()) if as_json else table(seen, self._columns()))
        crowd.check(seen)

    def _watch(self, seconds: float, as_json: bool, crowd: Crowd) -> None:
        clears = not as_json and self.stdout.isatty()
        try:
            while True:
                seen = overview.look(own=False)
                shown = table(seen, self._columns()) if seen.workers else _no_process()
                if clears:
                    self.stdout.write("\033[H\033[2J\033[3J", ending="")
                self._write(json.dumps(seen.as_dict()) if as_json else f"{shown}\n")
                self.stdout.flush()
                crowd.check(seen)
                time.sleep(max(seconds, 0.1))
        except KeyboardInterrupt:
            return

    def _columns(self) -> int | None:
        """None: what isn't a terminal gets whole lines."""
        if not self.stdout.isatty():
            return None
        return max(COLUMNS, shutil.get_terminal_size((COLUMNS, 24)).columns)

    def _write(self, text: str) -> None:
        """With escapes for what the terminal's encoding doesn't have."""
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        self.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def _plan(self, hosts: int, processes: int | None) -> None:
        seen = overview.look(own=False)
        servers = plan.servers(seen)
        if processes is None:
            processes = len(seen.workers) or None
        if processes is None and any(map(plan.needs_workers, servers.values())):
            raise CommandError(
                f"{_no_process()} Or give the number of processes: --workers N.",
                returncode=EXIT_NO_PROCESS,
            )
        demands = {server: plan.demand(shares, hosts, processes) for server, shares in servers.items()}
        for server, demand in demands.items():
            self._write("\n".join(plan.lines(server, demand)))
        for note in filter(None, (plan.few_callers(seen), plan.unknown(servers))):
            self._write(note)
        if not demands:
            self.stdout.write("No pool of this site connects to a server with a connection limit.")
        if not all(demand.fits for demand in demands.values()):
            raise CommandError("The processes may open more connections than a server accepts.", returncode=1)


class Crowd:
    """Whether more callers than ``most`` (None: any number may) wait for ``lasting`` seconds."""

    def __init__(self, most: int | None, lasting: float) -> None:
        self._most = most
        self._lasting = lasting
        # When more than these were seen first; None: it was fewer at the last look.
        self._since: float | None = None

    def may_end(self, seen: Overview) -> bool:
        """Whether another look is needed to know."""
        if self._most is None or seen.waiting <= self._most:
            self._since = None
            return False
        self._since = self._since or time.monotonic()
        return time.monotonic() - self._since < self._lasting

    def check(self, seen: Overview) -> None:
        """Raises CommandError."""
        if not self.may_end(seen) and self._since is not None:
            lasting = f" for {self._lasting:g} s" if self._lasting else ""
            raise CommandError(
                f"{seen.waiting} callers wait for a connection, more than {self._most}{lasting}.",
                returncode=EXIT_WAITING,
            )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError("must be a whole number, 1 or more")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError("must be a whole number, 0 or more")
    return int(text)


def _seconds(text: str, most: float = threading.TIMEOUT_MAX, also: str = "") -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= most:
        raise ArgumentTypeError(f"must be seconds, above 0{also}")
    return seconds


def _pause_seconds(text: str) -> float:
    return _seconds(text, MAX_PAUSE, f" and up to {MAX_PAUSE:.0f}")


def _is_given(action: Action, options: dict[str, Any]) -> bool:
    return options[action.replace("-", "_")] not in (None, False)


def _no_process() -> str:
    if not conf.pooled(connections.settings):
        return NOT_POOLED
    if not status_dir.is_on():
        return OFF
    refusal = status_dir.refusal()
    return (
        NO_PROCESS.format(redact(status_dir.path())) if refusal is None else REFUSED.format(redact(refusal))
    )
