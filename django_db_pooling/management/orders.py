"""What the command has all processes of the site on this host do."""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Iterable

from django.core.management.base import CommandError
from django.db import connections

from django_db_pooling import conf
from django_db_pooling.log import redact
from django_db_pooling.workers import commands, overview, reports
from django_db_pooling.workers.commands import Action
from django_db_pooling.workers.overview import Overview, PoolPicture
from django_db_pooling.workers.reports import Report

EXIT_FAILED = 1
# Between two looks at the reports, and until each process that had a pool at the beginning has written one.
POLL_SECONDS = 0.2
SETTLED_SECONDS = 2.5
REFUSED = "The processes of this site can't share their status: {}."


def aliases(alias: str | None) -> list[str]:
    """Those that are pooled; all, or this one. Raises CommandError where it isn't one of them."""
    pooled = conf.pooled(connections.settings)
    if alias is None:
        return list(pooled)
    if alias not in connections.settings:
        raise CommandError(f"The connection {alias!r} doesn't exist.")
    if alias not in pooled:
        raise CommandError(f"The connection {alias!r} isn't pooled.")
    return [alias]


def give(action: Action, alias: str | None, seconds: float | None) -> None:
    """Raises CommandError."""
    try:
        for one in aliases(alias):
            commands.give(one, action, f"{_user()}, manage.py db_pools", seconds)
    except OSError as error:
        raise CommandError(REFUSED.format(redact(error)), returncode=EXIT_FAILED) from error


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user id {os.getuid()}"


def wait_until_unused(alias: str | None, seconds: float) -> Overview:
    """Until every process is paused, and has no connection to these any more. Raises CommandError where it
    takes longer.
    """
    names, began = aliases(alias), time.monotonic()
    last: dict[str, Report] = {}
    while True:
        last = _still_there(last)
        seen = overview.picture(list(last.values()), (), time.time())
        now = time.monotonic()
        used = [pool for pool in seen.pools if pool.alias in names and not _is_unused(pool)]
        if not used and now - began >= SETTLED_SECONDS:
            return seen
        if now - began >= seconds:
            raise CommandError(
                f"Still in use after {seconds:.0f} s: {_described(used)}.", returncode=EXIT_FAILED
            )
        time.sleep(POLL_SECONDS)


def _still_there(before: dict[str, Report]) -> dict[str, Report]:
    """The last report of each process, by id (reads files).

    One that is silent may have something in use all the same: it is stopped, or computes without a pause.
    """
    found = {report.id: report for report in reports.read()}
    return {one: report for one, report in before.items() if not _has_ended(report)} | found


def _has_ended(report: Report) -> bool:
    """Whether its process has, as far as can be seen. It reports no more, at least for the moment."""
    if report.pid_space == reports.pid_space():
        return not reports.exists(report.pid)
    # In another container: who ends removes its report, and that of a silent one is shown for some time.
    return abs(time.time() - report.at) <= reports.MAX_SILENCE


def _is_unused(pool: PoolPicture) -> bool:
    total = pool.total
    is_paused = all(member.stats.paused is not None for member in pool.members)
    return is_paused and not (total.in_use or total.idle or total.opening or total.ending)


def _described(pools: Iterable[PoolPicture]) -> str:
    return "; ".join(
        f"{redact(pool.alias)}: {pool.total.in_use} in use, {pool.total.opening} opening"
        + "".join(f", {holding.seconds:.0f} s by {redact(holding.who)}" for holding in pool.holders[:1])
        + "".join(
            f", process {member.pid} silent for {member.reported_ago:.0f} s"
            for member in pool.members
            if member.reported_ago > reports.MAX_SILENCE
        )
        for pool in pools
    )
