"""One picture of all processes of a site on this host. ``look()`` reads reports; all else is arithmetic."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from django_db_pooling.pool.histogram import Durations
from django_db_pooling.pool.stats import PoolStats
from django_db_pooling.workers import commands
from django_db_pooling.workers.added import added, free_of_all
from django_db_pooling.workers.agent import agent
from django_db_pooling.workers.commands import Command
from django_db_pooling.workers.reports import SAMPLE_SECONDS, SAMPLES, PoolReport, Report, read

MAX_HOLDERS = 10
MAX_TROUBLES = 20
# Seconds of a pause; a report may say more than a calendar has.
MAX_SHOWN = 1e8
# Seconds after which every process has taken its sample of a moment.
SETTLED = 2.0
# By what two texts of the same trouble differ.
NUMBERS = re.compile(r"\d+(\.\d+)?")
HELD = " Held longest: "


@dataclass(frozen=True, slots=True)
class Spread:
    """How long things took in about the last minute: seconds; None where there were none."""

    count: int
    mean: float | None
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Moment:
    """The five seconds before ``at``, of ``time.time()``: rates per second, means in seconds, counts.

    Rates are None where no process has two samples, means where nothing happened.
    """

    at: float
    in_use: int
    waiting: int
    checkouts: float | None
    opened: float | None
    timeouts: float | None
    wait: float | None
    held: float | None


@dataclass(frozen=True, slots=True)
class Member:
    """One process's part in a pool. ``callers``: requests or tasks at once, where that is known."""

    pid: int
    program: str
    age: float
    reported_ago: float
    stats: PoolStats
    checkouts: float | None
    callers: int | None


@dataclass(frozen=True, slots=True)
class Holding:
    """A connection in use: for how long, by whom, in which process."""

    seconds: float
    who: str
    pid: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Of some or all processes. ``until``: of ``time.time()``, that of the last one."""

    until: float
    processes: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that went wrong, seconds ago, and how often the same was seen, apart from its numbers."""

    ago: float
    kind: str
    text: str
    pid: int
    times: int


@dataclass(frozen=True, slots=True)
class PoolPicture:
    """An alias: the sums over all processes (``total``, limits too), and whom they are made of.

    What a HOST_LIMIT leaves them is no sum: ``total.max_outstanding`` and ``free`` are within it.
    ``free``: how many could be checked out at once; None: no limit. ``holders``: the longest first.
    ``troubles``: the latest first. ``history``: the oldest first. ``timeouts``: how many callers gave up
    in the time of that. ``pause``: None where no process is paused. ``databases`` and ``scopes``: more than
    one where the settings of the processes differ.
    """

    alias: str
    total: PoolStats
    free: int | None
    pause: Pause | None
    waits: Spread
    helds: Spread
    timeouts: int
    members: list[Member]
    holders: list[Holding]
    troubles: list[Trouble]
    history: list[Moment]
    databases: list[str] = field(default_factory=list)
    scopes: list[str] = field(default_factory=list)

    @property
    def unopened(self) -> int | None:
        """How many more could be opened; None: no limit."""
        most = self.total.max_outstanding
        there = self.total.in_use + self.total.idle + self.total.opening + self.total.ending
        if most is None:
            return None
        host_limit, host_open = self.total.host_limit, self.total.host_open
        if host_limit is not None and host_open is not None:
            # Also by processes that don't report.
            most = min(most, there + host_limit - host_open)
        return max(0, most - there)


@dataclass(frozen=True, slots=True)
class Worker:
    """A process: seconds since its start and since its last report."""

    pid: int
    program: str
    age: float
    reported_ago: float


@dataclass(frozen=True, slots=True)
class CommandStatus:
    """A command, seconds since it was given, and how many processes of how many have carried it out."""

    command: Command
    ago: float
    carried_out: int
    of: int


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it, as of ``at`` (of ``time.time()``)."""

    at: float
    workers: list[Worker]
    pools: list[PoolPicture]
    commands: list[CommandStatus]

    @property
    def waiting(self) -> int:
        return sum(pool.total.waiting for pool in self.pools)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def look(own: bool = True) -> Overview:
    """How things are (reads files). ``own``: with this process, by its live figures."""
    found = {report.id: report for report in read()}
    mine = agent.report() if own else None
    if mine is not None:
        found[mine.id] = mine
    seen = sorted(found.values(), key=lambda report: (report.pid, report.id))
    return picture(seen, commands.given(), time.time())


def picture(reports: list[Report], given: Iterable[Command], now: float) -> Overview:
    """What these reports come to."""
    aliases = dict.fromkeys(alias for report in reports for alias in report.pools)
    return Overview(
        at=now,
        workers=[
            Worker(report.pid, report.program, _since(now, report.started_at), _since(now, report.at))
            for report in reports
        ],
        pools=[_pool(alias, [each for each in reports if alias in each.pools], now) for alias in aliases],
        commands=[
            CommandStatus(
                command,
                _since(now, command.at),
                sum(command.id in report.carried_out for report in reports),
                # Who came later starts with nothing that is older than the command.
                sum(report.started_at < command.at for report in reports),
            )
            for command in given
        ],
    )


def _since(now: float, at: float) -> float:
    return max(0.0, now - at)


def _pool(alias: str, reports: list[Report], now: float) -> PoolPicture:
    parts = [report.pools[alias] for report in reports]
    stats = [part.stats for part in parts]
    total = added(stats, [report.at for report in reports])
    members = [_member(report, report.pools[alias], now) for report in reports]
    return PoolPicture(
        alias=alias,
        total=total,
        free=free_of_all(stats, total),
        pause=_pause(members, now),
        waits=_spread([part.waits for part in parts]),
        helds=_spread([part.helds for part in parts]),
        timeouts=sum(_timeouts(part) for part in parts),
        members=members,
        holders=_holders(alias, reports, now),
        troubles=_troubles(alias, reports, now),
        history=_history(parts, now),
        databases=_distinct(part.database for part in parts),
        scopes=_distinct(part.scope for part in parts),
    )


def _distinct(texts: Iterable[str]) -> list[str]:
    return sorted(set(filter(None, texts)))


def _spread(durations: list[Durations]) -> Spread:
    together = Durations()
    for each in durations:
        together = together.plus(each)
    count = together.count
    return Spread(
        count=count,
        mean=together.seconds / count if count else None,
        p50=together.quantile(0.5),
        p95=together.quantile(0.95),
    )


def _timeouts(part: PoolReport) -> int:
    """In the time of the history; a process that is younger than that began with none."""
    before = part.history[0].timeouts if len(part.history) >= SAMPLES else 0
    return part.stats.timeouts - before


def _member(report: Report, part: PoolReport, now: float) -> Member:
    history = _history([part], now)
    return Member(
        pid=report.pid,
        program=report.program,
        age=_since(now, report.started_at),
        reported_ago=_since(now, report.at),
        stats=part.stats,
        checkouts=history[-1].checkouts if history else None,
        callers=report.callers,
    )


def _pause(members: list[Member], now: float) -> Pause | None:
    seconds = [one.stats.paused - one.reported_ago for one in members if one.stats.paused is not None]
    return Pause(now + min(max(0.0, *seconds), MAX_SHOWN), len(seconds)) if seconds else None


def _holders(alias: str, reports: list[Report], now: float) -> list[Holding]:
    found = [
        Holding(seconds + _since(now, report.at), who, report.pid)
        for report in reports
        for seconds, who in report.pools[alias].held
    ]
    return sorted(found, key=lambda holding: holding.seconds, reverse=True)[:MAX_HOLDERS]


def _troubles(alias: str, reports: list[Report], now: float) -> list[Trouble]:
    """The latest of each kind, the latest first."""
    found: dict[tuple[str, str], Trouble] = {}
    troubles = [
        Trouble(ago + _since(now, report.at), kind, text, report.pid, 1)
        for report in reports
        for ago, kind, text in report.pools[alias].troubles
    ]
    for trouble in sorted(troubles, key=lambda trouble: trouble.ago):
        key = trouble.kind, NUMBERS.sub("0", trouble.text.partition(HELD)[0])
        same = found.get(key)
        found[key] = trouble if same is None else replace(same, times=same.times + 1)
    return list(found.values())[:MAX_TROUBLES]


class _Sums:
    """What is added up of one moment. Rates come from the difference to the sample before."""

    def __init__(self) -> None:
        self.in_use, self.waiting, self.is_known = 0, 0, False
        self.checkouts = self.returned = self.opened = self.timeouts = 0.0
        self.wait_seconds = self.held_seconds = 0.0


def _history(parts: list[PoolReport], now: float) -> list[Moment]:
    moments: dict[float, _Sums] = {}
    for part in parts:
        for sample in part.history[:1]:
            sums = moments.setdefault(sample.at, _Sums())
            sums.in_use += sample.in_use
            sums.waiting += sample.waiting
        for before, sample in zip(part.history, part.history[1:], strict=False):
            # More than one where the process had no time for a sample.
            steps = max(1, round((sample.at - before.at) / SAMPLE_SECONDS))
            for step in range(min(steps, SAMPLES + 1)):
                sums = moments.setdefault(sample.at - step * SAMPLE_SECONDS, _Sums())
                sums.is_known = True
                sums.in_use += sample.in_use
                sums.waiting += sample.waiting
                sums.returned += (sample.checkouts - before.checkouts - sample.in_use + before.in_use) / steps
                for name in ("checkouts", "opened", "timeouts", "wait_seconds", "held_seconds"):
                    more = (getattr(sample, name) - getattr(before, name)) / steps
                    setattr(sums, name, getattr(sums, name) + more)
    return [
        _moment(at, moments[at])
        for at in sorted(moments)
        if SETTLED <= now - at <= SAMPLES * SAMPLE_SECONDS + SETTLED
    ]


def _moment(at: float, sums: _Sums) -> Moment:
    def rate(count: float) -> float | None:
        return count / SAMPLE_SECONDS if sums.is_known else None

    def mean(seconds: float, count: float) -> float | None:
        return seconds / count if count > 0 else None

    return Moment(
        at=at,
        in_use=sums.in_use,
        waiting=sums.waiting,
        checkouts=rate(sums.checkouts),
        opened=rate(sums.opened),
        timeouts=rate(sums.timeouts),
        wait=mean(sums.wait_seconds, sums.checkouts),
        held=mean(sums.held_seconds, sums.returned),
    )
