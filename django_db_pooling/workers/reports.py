"""What a process reports about its pools, and reading what all of them have reported.

A process counts as gone when it doesn't exist any more, or has written nothing for ``MAX_SILENCE`` seconds.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from django_db_pooling import status_dir
from django_db_pooling.pool.histogram import BOUNDS, Durations
from django_db_pooling.pool.stats import Closed, PoolStats
from django_db_pooling.status_dir import Kind
from django_db_pooling.workers.decoding import decode

MAX_SILENCE = 10.0
# Seconds between samples, and how many of them a process keeps.
SAMPLE_SECONDS = 5
SAMPLES = 60


@dataclass(frozen=True, slots=True)
class Sample:
    """An alias at one moment. ``at``: seconds of ``time.time()``; counts and seconds as in PoolStats."""

    at: float
    in_use: int
    waiting: int
    checkouts: int
    opened: int
    timeouts: int
    wait_seconds: float
    held_seconds: float


@dataclass(frozen=True, slots=True)
class PoolReport:
    """One alias in one process. ``held``: seconds and who, the longest first, of the connections in use.

    ``troubles``: seconds ago, kind and text of what went wrong lately, the latest last. ``history``: samples,
    the oldest first. ``waits`` and ``helds``: those of about the last minute. ``database``: which, and where;
    ``scope``: of requests.
    """

    stats: PoolStats
    held: list[tuple[float, str]]
    troubles: list[tuple[float, str, str]]
    history: list[Sample] = field(default_factory=list)
    waits: Durations = Durations()
    helds: Durations = Durations()
    database: str = ""
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """One process. ``started_at`` and ``at``, when it wrote this, are seconds of ``time.time()``.

    ``id``: unique, unlike ``pid`` where containers share a volume; ``pid_space``: where a ``pid`` is unique.
    ``carried_out``: ids of the commands that it has carried out lately. ``callers``: requests or tasks at
    once, where its server says so.
    """

    id: str
    pid: int
    pid_space: str
    program: str
    started_at: float
    at: float
    pools: dict[str, PoolReport]
    carried_out: list[str] = field(default_factory=list)
    callers: int | None = None


def read() -> list[Report]:
    """The last report of each process of this site on this host, by process id (reads files).

    There are none where their directory can't be trusted; ``status_dir.refusal()`` says why.
    """
    try:
        with status_dir.opened() as directory:
            found = directory.read(Kind.REPORT, directory.ids(Kind.REPORT), _decoded)
    except OSError:
        return []
    now, here = time.time(), pid_space()
    current = [
        report
        for report in found
        # In another container only its age shows that a process is gone.
        if abs(now - report.at) <= MAX_SILENCE and (report.pid_space != here or exists(report.pid))
    ]
    return sorted(current, key=lambda report: (report.pid, report.id))


def _decoded(one: str, text: bytes) -> Report:
    """Raises ValueError where it isn't what this version of the package writes."""
    report = decode(Report, text)
    if report.id != one:
        raise ValueError("its id does not match its file name")
    for pool in report.pools.values():
        if pool.stats.closed_by_reason.keys() != set(Closed):
            raise ValueError("closed_by_reason: unknown reasons")
        durations = (pool.waits, pool.helds, pool.stats.waits, pool.stats.helds, pool.stats.connects)
        if any(len(each.buckets) != len(BOUNDS) + 1 for each in durations):
            raise ValueError("unknown buckets")
    return report


def exists(pid: int) -> bool:
    """Whether there is such a process, in this process's own space."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def pid_space() -> str:
    """Where a process id means the same: on the kernel that runs, in this container."""
    kernel, space = os.uname().nodename, ""
    with contextlib.suppress(OSError):
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with contextlib.suppress(OSError):
        space = str(os.stat("/proc/self/ns/pid").st_ino)
    return f"{kernel} {space}"
