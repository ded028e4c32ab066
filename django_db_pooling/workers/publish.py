"""Writing what this process reports about its pools, for the others of its site on this host."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from django_db_pooling import status_dir
from django_db_pooling.log import extra, logger, redact
from django_db_pooling.pool.histogram import Durations
from django_db_pooling.pool.journal import QUIET
from django_db_pooling.pool.pool import Pool
from django_db_pooling.pool.stats import PoolStats
from django_db_pooling.process import concurrency, program
from django_db_pooling.status_dir import Kind
from django_db_pooling.workers.reports import (
    MAX_SILENCE,
    SAMPLE_SECONDS,
    SAMPLES,
    PoolReport,
    Report,
    Sample,
    pid_space,
)

# Seconds between looks for files of processes that are gone.
CLEAR_EVERY = 10.0
# So many samples ago begins what is reported as "recent": a minute.
RECENT_SAMPLES = 12
MAX_HOLDERS = 10


class Publisher:
    """Writes what the pools of this process are doing, with samples of the last minutes."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.id = status_dir.new_id(self._pid)
        self._started = time.monotonic()
        self._history: dict[str, deque[Sample]] = {}
        # Waits and holds with each of the last samples, the oldest first.
        self._durations: dict[str, deque[tuple[Durations, Durations]]] = {}
        # Of time.monotonic(): when old files were removed, and when a change was logged.
        self._cleared_at = self._logged_at = -math.inf
        self._has_failed = self._has_written = False
        # Why the last report could not be written.
        self.refusal: str | None = None

    def publish(
        self, stats: Mapping[str, PoolStats], pools: Mapping[str, Pool], carried_out: Iterable[str]
    ) -> None:
        """Write this process's file (I/O). What fails is logged, and that it works again."""
        self._sample(stats, time.time())
        report = json.dumps(asdict(self.report(stats, pools, carried_out))).encode()
        try:
            with status_dir.opened(make=True) as directory:
                if time.monotonic() - self._cleared_at >= CLEAR_EVERY:
                    # Of processes that were killed.
                    directory.clear(Kind.REPORT, MAX_SILENCE)
                    self._cleared_at = time.monotonic()
                directory.write(Kind.REPORT, self.id, report)
                self._has_written = True
        except OSError as error:
            self.refusal = redact(str(error))
        else:
            self.refusal = None
        self._log_change()

    def _log_change(self) -> None:
        """Between working and failing, but not each time where that happens often."""
        fails = self.refusal is not None
        if fails == self._has_failed or time.monotonic() - self._logged_at < QUIET:
            return
        self._has_failed, self._logged_at = fails, time.monotonic()
        if not fails:
            logger.warning("sharing pool status with other processes works again", extra=extra("status"))
        else:
            logger.warning(
                "can't share pool status with other processes (the pools themselves work): %s",
                self.refusal,
                extra=extra("status", error=self.refusal),
            )

    def remove(self) -> None:
        """The process ends, and its file goes."""
        if self._has_written and os.getpid() == self._pid:
            with contextlib.suppress(OSError), status_dir.opened() as directory:
                directory.remove(Kind.REPORT, self.id)

    def report(
        self, stats: Mapping[str, PoolStats], pools: Mapping[str, Pool], carried_out: Iterable[str]
    ) -> Report:
        """This process at this moment. ``pools``: by alias, those that there are."""
        now = time.time()
        return Report(
            id=self.id,
            pid=self._pid,
            pid_space=pid_space(),
            program=program.name(),
            # Counted back from now: the clock may have been set since.
            started_at=now - (time.monotonic() - self._started),
            at=now,
            pools={alias: self._pool_report(total, pools.get(alias)) for alias, total in stats.items()},
            carried_out=list(carried_out),
            callers=concurrency.callers_here(),
        )

    def _pool_report(self, stats: PoolStats, pool: Pool | None) -> PoolReport:
        now = time.monotonic()
        waits, helds = self._minute_ago(stats.alias)
        troubles = [] if pool is None else list(pool.journal.troubles)
        return PoolReport(
            stats=stats,
            held=[] if pool is None else pool.held()[:MAX_HOLDERS],
            troubles=[(now - trouble.at, trouble.kind, trouble.error) for trouble in troubles],
            history=list(self._history.get(stats.alias, ())),
            waits=stats.waits.minus(waits),
            helds=stats.helds.minus(helds),
            database="" if pool is None else pool.database,
            scope="" if pool is None else pool.scope,
        )

    def _minute_ago(self, alias: str) -> tuple[Durations, Durations]:
        known = self._durations.get(alias)
        return known[0] if known and len(known) > RECENT_SAMPLES else (Durations(), Durations())

    def _sample(self, all_stats: Mapping[str, PoolStats], now: float) -> None:
        # All processes at the same moments, so that their samples can be added up.
        moment = now // SAMPLE_SECONDS * SAMPLE_SECONDS
        # Those of aliases that are gone are forgotten.
        self._history = {alias: self._history.get(alias) or deque(maxlen=SAMPLES) for alias in all_stats}
        self._durations = {
            alias: self._durations.get(alias) or deque(maxlen=RECENT_SAMPLES + 1) for alias in all_stats
        }
        for alias, stats in all_stats.items():
            history = self._history[alias]
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
            self._durations[alias].append((stats.waits, stats.helds))
