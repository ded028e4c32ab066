"""From an overview to what the templates show: everything is text by then, and no locale changes it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.utils import timezone

from django_db_pooling.dashboard.charts import HEIGHT, WIDTH, Segment, bar, charts
from django_db_pooling.workers import humanize, status_dir
from django_db_pooling.workers.agent import agent
from django_db_pooling.workers.commands import Action
from django_db_pooling.workers.overview import (
    CommandStatus,
    Holding,
    Member,
    Overview,
    PoolPicture,
    Spread,
    Trouble,
)

if TYPE_CHECKING:
    from django_db_pooling.dashboard.access import Visitor

# More processes than this are folded up.
FEW = 8
LABELS = {"in_use": "in use", "opening": "opening", "idle": "idle", "unopened": "not opened"}
KINDS = {"connect": "can't connect", "timeout": "no connection in time", "lost": "connection lost"}
DONE = {Action.RECYCLE: "Recycle", Action.CLOSE_IDLE: "Close idle"}
BUTTONS = [
    (Action.RECYCLE, "Recycle", "replaces every connection as it comes back"),
    (Action.CLOSE_IDLE, "Close idle", "closes those that nobody uses"),
]


@dataclass(frozen=True, slots=True)
class Row:
    """A process's part in a pool."""

    pid: int
    program: str
    segments: list[Segment]
    summary: str
    in_use: int
    idle: int
    opening: int
    waiting: int
    limit: str
    checkouts: str
    age: str
    heard: str
    is_late: bool


@dataclass(frozen=True, slots=True)
class Times:
    title: str
    p50: str
    p95: str
    mean: str


def context(overview: Overview, visitor: Visitor) -> dict[str, Any]:
    """What the templates want to know."""
    return {
        "pools": [_pool(pool, overview) for pool in overview.pools],
        "workers": len(overview.workers),
        "at": _clock(overview.at),
        "tells": status_dir.is_on(),
        "refusal": agent.refusal() or status_dir.refusal() if status_dir.is_on() else None,
        "visitor": visitor,
        "seen": None if visitor.seen is None else humanize.age(visitor.seen),
        "width": str(WIDTH),
        "height": str(HEIGHT),
        "state": _state(overview),
    }


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.get_current_timezone()).strftime("%H:%M:%S")


def _state(overview: Overview) -> str:
    """What a screen reader says when it changes: without numbers, or it would never be quiet."""
    if not overview.workers:
        return "No process tells of its pools."
    waiting = [pool.alias for pool in overview.pools if pool.total.waiting]
    return f"Callers wait for {', '.join(waiting)}." if waiting else "Nobody waits."


def _pool(pool: PoolPicture, overview: Overview) -> dict[str, Any]:
    total = pool.total
    counts = {name: (label, _count(pool, name)) for name, label in LABELS.items()}
    segments = bar(counts, total.max_outstanding or 0)
    if total.max_outstanding is None:
        segments = [segment for segment in segments if segment.name != "unopened"]
    return {
        "alias": pool.alias,
        "limits": _limits(pool),
        "segments": segments,
        "summary": ", ".join(f"{segment.count} {segment.label}" for segment in segments),
        "waiting": total.waiting,
        "free": "no limit" if pool.free is None else str(pool.free),
        "is_full": pool.free == 0,
        "timeouts": pool.timeouts,
        "times": [_times("Wait", pool.waits), _times("Held", pool.helds)],
        "charts": charts(pool),
        "rows": [_row(member) for member in pool.members],
        "is_long": len(pool.members) > FEW,
        "holders": [_holding(holding) for holding in pool.holders],
        "troubles": [_trouble(trouble) for trouble in pool.troubles],
        "totals": _totals(pool),
        "commands": [
            _command(command) for command in overview.commands if command.command.alias == pool.alias
        ],
        "buttons": BUTTONS,
    }


def _count(pool: PoolPicture, name: str) -> int:
    return pool.unopened or 0 if name == "unopened" else int(getattr(pool.total, name))


def _limits(pool: PoolPicture) -> str:
    """The limits of one process, and of all."""
    each = {(member.stats.size, member.stats.max_outstanding) for member in pool.members}
    processes = _several(len(pool.members), "process", "processes")
    if len(each) > 1:
        parts = "of different limits"
    else:
        size, most = each.pop()
        parts = f"keeping {size} and opening {'any number' if most is None else f'at most {most}'} each"
    whole = pool.total.max_outstanding
    return f"{processes}, {parts}" + ("" if whole is None else f": {whole} connections in all")


def _several(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _times(title: str, spread: Spread) -> Times:
    return Times(
        title, humanize.duration(spread.p50), humanize.duration(spread.p95), humanize.duration(spread.mean)
    )


def _row(member: Member) -> Row:
    stats = member.stats
    most = stats.max_outstanding
    segments = bar(
        {name: (LABELS[name], int(getattr(stats, name))) for name in ("in_use", "opening", "idle")}, most or 0
    )
    return Row(
        pid=member.pid,
        program=member.program,
        segments=segments,
        summary=", ".join(f"{segment.count} {segment.label}" for segment in segments),
        in_use=stats.in_use,
        idle=stats.idle,
        opening=stats.opening,
        waiting=stats.waiting,
        limit="none" if most is None else str(most),
        checkouts=humanize.rate(member.checkouts),
        age=humanize.age(member.age),
        heard="now" if member.reported_ago < 2.5 else f"{member.reported_ago:.0f} s ago",
        is_late=member.reported_ago >= 4,
    )


def _holding(holding: Holding) -> dict[str, Any]:
    who, _, where = holding.who.partition(" in thread ")
    return {
        "seconds": humanize.duration(holding.seconds),
        "who": who,
        # Where threads have no names, they go by a number that says nothing.
        "where": "" if where.isdecimal() or not where else f"in thread {where}",
        "pid": holding.pid,
    }


def _trouble(trouble: Trouble) -> dict[str, Any]:
    return {
        "ago": humanize.age(trouble.ago),
        "kind": KINDS.get(trouble.kind, trouble.kind),
        "text": trouble.text.partition(": ")[2] if trouble.kind == "timeout" else trouble.text,
        "pid": trouble.pid,
        "times": trouble.times,
    }


def _totals(pool: PoolPicture) -> list[tuple[str, str, str]]:
    """What was counted since the processes started, and what it means."""
    total = pool.total
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in total.closed_by_reason.items() if count)
    return [
        ("checkouts", f"{total.checkouts:,}", "times a connection was taken"),
        ("opened", f"{total.opened:,}", "connections opened"),
        ("closed", f"{total.closed:,}", reasons or "connections closed"),
        ("timeouts", f"{total.timeouts:,}", "callers that gave up waiting"),
        ("broken", f"{total.broken:,}", "connections never to be used again"),
        ("reclaimed", f"{total.reclaimed:,}", "taken and never given back"),
        ("resets", f"{total.resets:,}", "sessions made as new"),
        ("pins", f"{total.pins:,}", "connections kept to the end of a request"),
        ("longest wait", humanize.duration(total.longest_wait_seconds), "of one caller"),
        ("busy", _busy(total.busy_seconds, total.held_seconds), "of the time held, inside of the driver"),
    ]


def _busy(busy: float, held: float) -> str:
    """How well connections are used by those who have them."""
    return f"{100 * min(1.0, busy / held):.0f} %" if held else "–"


def _command(command: CommandStatus) -> dict[str, Any]:
    return {
        "what": DONE[command.command.action],
        "by": command.command.by,
        "ago": humanize.age(command.ago),
        "carried_out": command.carried_out,
        "of": _several(command.of, "process", "processes"),
        "is_done": command.carried_out >= command.of,
    }
