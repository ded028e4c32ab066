"""What each process of a site tells the others on its host about its pools: a directory of small files.

A file is written every second and replaced as a whole. Its process is taken for gone when it isn't there any
more, or has been silent for ``SILENCE`` seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings

from django_db_pooling.histogram import Durations
from django_db_pooling.journal import extra, logger
from django_db_pooling.pool import Pool
from django_db_pooling.stats import PoolStats

SILENCE = 10.0
# Seconds between samples, and how many of them a process keeps.
SAMPLE_SECONDS = 5
SAMPLES = 60
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
    the oldest first.
    """

    stats: PoolStats
    held: list[tuple[float, str]]
    troubles: list[tuple[float, str, str]]
    history: list[Sample] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Report:
    """One process. ``started_at`` and ``at``, when it said all this, are seconds of ``time.time()``."""

    pid: int
    program: str
    started_at: float
    at: float
    pools: dict[str, PoolReport]


def is_on() -> bool:
    """Whether this process is to tell: the app is installed, or settings.DB_POOL_STATUS_DIR is a path."""
    if hasattr(settings, "DB_POOL_STATUS_DIR"):
        return settings.DB_POOL_STATUS_DIR is not None
    return apps.ready and apps.is_installed("django_db_pooling")


def directory() -> Path:
    """Where all processes of this site tell: below the system's directory for temporary files, unless set."""
    given = getattr(settings, "DB_POOL_STATUS_DIR", None)
    if given is not None:
        return Path(given)
    # The same for all processes of a site, another one for each site, and it tells nobody the key.
    site = hashlib.blake2b(b"django_db_pooling", key=settings.SECRET_KEY.encode()[:64], digest_size=8)
    return Path(tempfile.gettempdir()) / f"django_db_pooling-{os.getuid()}-{site.hexdigest()}"


class Publisher:
    """Tells what the pools of this process are doing."""

    def __init__(self) -> None:
        self._started_at = time.time()
        self._pid = os.getpid()
        self._history: dict[str, deque[Sample]] = {}
        self._path: Path | None = None
        self._has_failed = False

    def publish(self, stats: Mapping[str, PoolStats], pools: Iterable[Pool]) -> None:
        """Write this process's file (I/O). Says once where that can't be done."""
        try:
            path = self._own_path()
            report = self._report(stats, list(pools))
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps(asdict(report)))
            fresh.replace(path)
        except OSError as error:
            if not self._has_failed:
                logger.warning(
                    "can't tell other processes what the pools do: %s", error, extra=extra("status")
                )
            self._has_failed = True

    def forget(self) -> None:
        """The process ends."""
        if self._path is not None and os.getpid() == self._pid:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _own_path(self) -> Path:
        if self._path is None:
            where = directory()
            where.mkdir(mode=0o700, exist_ok=True)
            found = where.lstat()
            if found.st_uid != os.geteuid():
                raise PermissionError(f"{where} belongs to somebody else")
            self._path = where / f"{self._pid}.json"
        return self._path

    def _report(self, stats: Mapping[str, PoolStats], pools: list[Pool]) -> Report:
        now, clock = time.time(), time.monotonic()
        return Report(
            pid=self._pid,
            program=Path(sys.argv[0]).name or "python",
            started_at=self._started_at,
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
                    history=self._sampled(alias, told, now),
                )
                for alias, told in stats.items()
            },
        )

    def _sampled(self, alias: str, stats: PoolStats, now: float) -> list[Sample]:
        history = self._history.setdefault(alias, deque(maxlen=SAMPLES))
        # All processes at the same moments, so that their samples can be added up.
        moment = now // SAMPLE_SECONDS * SAMPLE_SECONDS
        if not history or history[-1].at < moment:
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
        return list(history)


def reports() -> list[Report]:
    """What all processes of this site on this host have said last, by process id (reads files)."""
    found = []
    for path in directory().glob("*.json"):
        try:
            report = _parsed(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            # Gone this instant, or of another version.
            continue
        if time.time() - report.at > SILENCE or not _is_there(report.pid):
            continue
        found.append(report)
    return sorted(found, key=lambda report: report.pid)


def _parsed(told: dict[str, Any]) -> Report:
    pools = {
        alias: PoolReport(
            stats=_stats(pool["stats"]),
            held=[(seconds, who) for seconds, who in pool["held"]],
            troubles=[(ago, kind, text) for ago, kind, text in pool["troubles"]],
            history=[Sample(**sample) for sample in pool["history"]],
        )
        for alias, pool in told["pools"].items()
    }
    return Report(**{**told, "pools": pools})


def _stats(told: dict[str, Any]) -> PoolStats:
    durations = {
        name: Durations(tuple(told[name]["buckets"]), told[name]["seconds"])
        for name in ("waits", "helds", "connects")
    }
    return PoolStats(**{**told, **durations})


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
