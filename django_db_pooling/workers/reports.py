"""What each process of a site tells the others on its host about its pools, every second, in a file.

A process is taken for gone when it isn't there any more, or has been silent for ``SILENCE`` seconds.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from django.apps import apps
from django.conf import settings

from django_db_pooling.log import extra, logger, redact, safe_label
from django_db_pooling.pool.histogram import BOUNDS, Durations
from django_db_pooling.pool.journal import QUIET
from django_db_pooling.pool.pool import Pool
from django_db_pooling.pool.stats import Closed, PoolStats
from django_db_pooling.workers import status_dir
from django_db_pooling.workers.decoding import decode
from django_db_pooling.workers.status_dir import Kind

# Seconds.
SILENCE = 10.0
CLEAR_EVERY = 10.0
# Seconds between samples, and how many of them a process keeps.
SAMPLE_SECONDS = 5
SAMPLES = 60
# As many samples ago begins what is told of as "recent": a minute.
RECENT_SAMPLES = 12
MOST_HOLDERS = 10


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
    the oldest first. ``waits`` and ``helds``: those of about the last minute.
    """

    stats: PoolStats
    held: list[tuple[float, str]]
    troubles: list[tuple[float, str, str]]
    history: list[Sample] = field(default_factory=list)
    waits: Durations = Durations()
    helds: Durations = Durations()


@dataclass(frozen=True, slots=True)
class Report:
    """One process. ``started_at`` and ``at``, when it said all this, are seconds of ``time.time()``.

    ``id``: nobody else's, unlike ``pid`` where containers share a volume; ``pid_space``: where that counts.
    ``carried_out``: ids of the commands that it has carried out lately.
    """

    id: str
    pid: int
    pid_space: str
    program: str
    started_at: float
    at: float
    pools: dict[str, PoolReport]
    carried_out: list[str] = field(default_factory=list)


def is_on() -> bool:
    """Whether this process is to tell: the app is installed, or settings.DB_POOL_STATUS_DIR is a path."""
    if hasattr(settings, "DB_POOL_STATUS_DIR"):
        return settings.DB_POOL_STATUS_DIR is not None
    return apps.ready and apps.is_installed("django_db_pooling")


class Publisher:
    """Tells what the pools of this process are doing."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.id = status_dir.new_id(self._pid)
        self._started = time.monotonic()
        self._history: dict[str, deque[Sample]] = {}
        # Waits and holds with each of the last samples, the oldest first.
        self._durations: dict[str, deque[tuple[Durations, Durations]]] = {}
        # Of time.monotonic(): when what others have left was cleared away, and when the log was told last.
        self._cleared_at = self._logged_at = -math.inf
        self._has_failed = self._has_written = False
        # Why the last report could not be written.
        self.refusal: str | None = None

    def publish(
        self, stats: Mapping[str, PoolStats], pools: Iterable[Pool], carried_out: Iterable[str]
    ) -> None:
        """Write this process's file (I/O). The log says where that can't be done, and when it can again."""
        self._sample(stats, time.time())
        report = json.dumps(asdict(self.report(stats, pools, carried_out))).encode()
        try:
            with status_dir.opened(make=True) as directory:
                if time.monotonic() - self._cleared_at >= CLEAR_EVERY:
                    # Of processes that were killed.
                    directory.clear(Kind.REPORT, SILENCE)
                    self._cleared_at = time.monotonic()
                directory.write(Kind.REPORT, self.id, report)
                self._has_written = True
        except OSError as error:
            self.refusal = redact(str(error))
        else:
            self.refusal = None
        self._say(self.refusal)

    def _say(self, said: str | None) -> None:
        """Log a change between working and failing, but not each time where it comes and goes."""
        if (said is not None) == self._has_failed or time.monotonic() - self._logged_at < QUIET:
            return
        self._has_failed, self._logged_at = said is not None, time.monotonic()
        if said is None:
            logger.warning("sharing pool status with other processes works again", extra=extra("status"))
        else:
            logger.warning(
                "can't share pool status with other processes (the pools themselves work): %s",
                said,
                extra=extra("status", error=said),
            )

    def forget(self) -> None:
        """The process ends."""
        if self._has_written and os.getpid() == self._pid:
            with contextlib.suppress(OSError), status_dir.opened() as directory:
                directory.remove(Kind.REPORT, self.id)

    def report(
        self, stats: Mapping[str, PoolStats], pools: Iterable[Pool], carried_out: Iterable[str]
    ) -> Report:
        """This process at this moment."""
        now, clock, pools = time.time(), time.monotonic(), list(pools)
        return Report(
            id=self.id,
            pid=self._pid,
            pid_space=_pid_space(),
            program=_program(),
            # Reckoned from now, so that it stays right when the clock is set.
            started_at=now - (clock - self._started),
            at=now,
            pools={
                alias: PoolReport(
                    stats=told,
                    held=sorted(
                        (held for pool in pools if pool.name == alias for held in pool.held()), reverse=True
                    )[:MOST_HOLDERS],
                    troubles=[
                        (clock - trouble.at, trouble.kind, trouble.error)
                        for pool in pools
                        if pool.name == alias
                        for trouble in list(pool.troubles)
                    ],
                    history=list(self._history.get(alias, ())),
                    waits=told.waits.minus(self._minute_ago(alias)[0]),
                    helds=told.helds.minus(self._minute_ago(alias)[1]),
                )
                for alias, told in stats.items()
            },
            carried_out=list(carried_out),
        )

    def _minute_ago(self, alias: str) -> tuple[Durations, Durations]:
        known = self._durations.get(alias)
        return known[0] if known and len(known) > RECENT_SAMPLES else (Durations(), Durations())

    def _sample(self, all_stats: Mapping[str, PoolStats], now: float) -> None:
        # All processes at the same moments, so that their samples can be added up.
        moment = now // SAMPLE_SECONDS * SAMPLE_SECONDS
        for alias, stats in all_stats.items():
            history = self._history.setdefault(alias, deque(maxlen=SAMPLES))
            if history and history[-1].at >= moment:
                continue
            history.append(
                Sample(
                    at=moment,
                    in_use=stats.in_use,
                    waiting=stats.waiting,
                    checkouts=stats.checkouts,
                    opened=stats.opened,
                    timeouts=stats.timeouts,
                    wait_seconds=stats.wait_seconds,
                    held_seconds=stats.held_seconds,
                )
            )
            durations = self._durations.setdefault(alias, deque(maxlen=RECENT_SAMPLES + 1))
            durations.append((stats.waits, stats.helds))


def _program() -> str:
    program = Path(sys.argv[0])
    # python -m gunicorn
    name = (program.parent if program.name == "__main__.py" else program).name
    return safe_label(os.fsencode(name).decode(errors="backslashreplace")) or "python"


def _pid_space() -> str:
    """What has to be the same for a process id to mean the same: the kernel that runs, and the container."""
    kernel, space = os.uname().nodename, ""
    with contextlib.suppress(OSError):
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with contextlib.suppress(OSError):
        space = str(os.stat("/proc/self/ns/pid").st_ino)
    return f"{kernel} {space}"


def read() -> list[Report]:
    """What all processes of this site on this host have said last, by process id (reads files).

    There are none where their directory can't be trusted; ``status_dir.refusal()`` says why.
    """
    try:
        with status_dir.opened() as directory:
            found = directory.read(Kind.REPORT, directory.ids(Kind.REPORT), _understood)
    except OSError:
        return []
    now, here = time.time(), _pid_space()
    heard = [
        report
        for report in found
        # Elsewhere only its silence tells that a process is gone.
        if abs(now - report.at) <= SILENCE and (report.pid_space != here or _is_there(report.pid))
    ]
    return sorted(heard, key=lambda report: (report.pid, report.id))


def _understood(one: str, text: bytes) -> Report:
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


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
