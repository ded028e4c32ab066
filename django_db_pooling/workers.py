"""What each process of a site tells the others on its host about its pools: a directory of small files.

A file is written every second and replaced as a whole. Its process is taken for gone when it isn't there any
more, or has been silent for ``SILENCE`` seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
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
from django_db_pooling.log import extra, label, logger, redact
from django_db_pooling.pool import Pool
from django_db_pooling.stats import PoolStats

SILENCE = 10.0
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

    ``obeyed``: numbers of the orders that it has carried out lately.
    """

    pid: int
    program: str
    started_at: float
    at: float
    pools: dict[str, PoolReport]
    obeyed: list[int] = field(default_factory=list)


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


def own_directory() -> Path:
    """The same, made where it is missing. Raises OSError where it is somebody else's."""
    where = directory()
    where.mkdir(mode=0o700, exist_ok=True)
    if not is_own(where):
        raise PermissionError(f"{where} belongs to somebody else")
    return where


def is_own(where: Path, and_nobody_elses: bool = False) -> bool:
    """Whether it is a directory of this user's, and where that matters, nobody else can write into it."""
    try:
        found = where.lstat()
    except OSError:
        return False
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return mine and not (and_nobody_elses and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


class Publisher:
    """Tells what the pools of this process are doing."""

    def __init__(self) -> None:
        self._started_at = time.time()
        self._pid = os.getpid()
        self._history: dict[str, deque[Sample]] = {}
        # Waits and holds with each of the last samples, the oldest first.
        self._durations: dict[str, deque[tuple[Durations, Durations]]] = {}
        self._path: Path | None = None
        self._has_failed = False

    def publish(self, stats: Mapping[str, PoolStats], pools: Iterable[Pool], obeyed: list[int]) -> None:
        """Write this process's file (I/O). Says once where that can't be done."""
        try:
            path = self._own_path()
            self._sample(stats, time.time())
            report = self.report(stats, pools, obeyed)
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps(asdict(report)))
            fresh.replace(path)
        except OSError as error:
            if not self._has_failed:
                logger.warning(
                    "can't tell other processes what the pools do: %s", redact(error), extra=extra("status")
                )
            self._has_failed = True

    def forget(self) -> None:
        """The process ends."""
        if self._path is not None and os.getpid() == self._pid:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _own_path(self) -> Path:
        if self._path is None:
            where = own_directory()
            _clear_away(where)
            self._path = where / f"{self._pid}.json"
        return self._path

    def report(self, stats: Mapping[str, PoolStats], pools: Iterable[Pool], obeyed: list[int]) -> Report:
        """This process at this moment."""
        now, clock, pools = time.time(), time.monotonic(), list(pools)
        return Report(
            pid=self._pid,
            program=_program(),
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
                    history=list(self._history.get(alias, ())),
                    waits=told.waits.minus(self._minute_ago(alias)[0]),
                    helds=told.helds.minus(self._minute_ago(alias)[1]),
                )
                for alias, told in stats.items()
            },
            obeyed=list(obeyed),
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
    return label((program.parent if program.name == "__main__.py" else program).name or "python")


def _clear_away(where: Path) -> None:
    """Files of processes that were killed, whole ones and unfinished ones."""
    for path in [*where.glob("*.json"), *where.glob("*.new*")]:
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > SILENCE:
                path.unlink()


def reports() -> list[Report]:
    """What all processes of this site on this host have said last, by process id (reads files)."""
    found = []
    where = directory()
    if getattr(settings, "DB_POOL_STATUS_DIR", None) is None and not is_own(where):
        # In the system's directory for temporary files anybody could have made it.
        return []
    for path in where.glob("*.json"):
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
            waits=_durations(pool["waits"]),
            helds=_durations(pool["helds"]),
        )
        for alias, pool in told["pools"].items()
    }
    return Report(**{**told, "pools": pools})


def _stats(told: dict[str, Any]) -> PoolStats:
    durations = {name: _durations(told[name]) for name in ("waits", "helds", "connects")}
    return PoolStats(**{**told, **durations})


def _durations(told: dict[str, Any]) -> Durations:
    return Durations(tuple(told["buckets"]), told["seconds"])


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
