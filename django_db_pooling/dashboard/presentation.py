"""The variables of the templates, made from an overview. All numbers are text, which no locale reformats."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.utils import timezone

from django_db_pooling import status_dir
from django_db_pooling.dashboard.charts import HEIGHT, WIDTH, Segment, bar, charts
from django_db_pooling.workers import commands, humanize
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
from django_db_pooling.workers.verdict import NOBODY_WAITS, verdicts

if TYPE_CHECKING:
    from django_db_pooling.dashboard.access import Visitor

# With more processes than this, their table is collapsed.
MAX_EXPANDED = 8
LABELS = {
    "in_use": "in use",
    "opening": "opening",
    "ending": "ending",
    "idle": "idle",
    "unopened": "not opened",
}
KINDS = {
    "connect": "can't connect",
    "full": "server is full",
    "timeout": "timeout",
    "lost": "connection lost",
}
DONE = {
    Action.RECYCLE: "Recycle",
    Action.CLOSE_IDLE: "Close idle",
    Action.PAUSE: "Pause pool",
    Action.RESUME: "Resume pool",
}
BUTTONS = [
    (Action.RECYCLE, "Recycle", "replaces every connection when it is returned"),
    (Action.CLOSE_IDLE, "Close idle", "closes connections that are not in use"),
]
PAUSE = (
    Action.PAUSE,
    "Pause pool",
    f"hands out no connection for {commands.PAUSE:.0f} s, so that callers wait",
)
RESUME = (Action.RESUME, "Resume pool", "ends the pause now")


@dataclass(frozen=True, slots=True)
class Row:
    """A process in the table of a pool."""

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
    reported: str
    is_late: bool


@dataclass(frozen=True, slots=True)
class Times:
    title: str
    p50: str
    p95: str
    mean: str


def context(overview: Overview, visitor: Visitor) -> dict[str, Any]:
    """The variables of the templates."""
    return {
        "pools": [_pool(pool, overview, visitor) for pool in overview.pools],
        "verdicts": verdicts(overview),
        "nobody_waits": NOBODY_WAITS,
        "workers": len(overview.workers),
        "at": _clock(overview.at, "%H:%M:%S %Z"),
        "is_on": status_dir.is_on(),
        "refusal": agent.refusal() or status_dir.refusal() if status_dir.is_on() else None,
        "visitor": visitor,
        "seen": None if visitor.seen is None else humanize.age(visitor.seen),
        "width": str(WIDTH),
        "height": str(HEIGHT),
        "state": _state(overview),
    }


def _clock(at: float, form: str = "%H:%M:%S") -> str:
    return datetime.fromtimestamp(at, timezone.get_current_timezone()).strftime(form)


def _state(overview: Overview) -> str:
    """Read out by a screen reader when it changes. Without numbers, which change all the time."""
    if not overview.workers:
        return "No process reports its pools."
    waiting = [pool.alias for pool in overview.pools if pool.total.waiting]
    paused = [pool.alias for pool in overview.pools if pool.pause is not None]
    state = f"Callers are waiting for {', '.join(waiting)}." if waiting else NOBODY_WAITS
    return f"{state} Paused: {', '.join(paused)}." if paused else state


def _pool(pool: PoolPicture, overview: Overview, visitor: Visitor) -> dict[str, Any]:
    total = pool.total
    segments = _bar({name: _count(pool, name) for name in LABELS}, total.max_outstanding)
    if total.max_outstanding is None:
        segments = [segment for segment in segments if segment.name != "unopened"]
    return {
        "alias": pool.alias,
        "limits": _limits(pool),
        "about": humanize.about(pool.databases, pool.scopes),
        "segments": segments,
        "summary": ", ".join(f"{segment.count} {segment.label}" for segment in segments),
        "waiting": total.waiting,
        "free": "no limit" if pool.free is None else str(pool.free),
        "is_full": pool.free == 0,
        "timeouts": pool.timeouts,
        "times": [_times("Wait", pool.waits), _times("Hold", pool.helds)],
        "charts": charts(pool),
        "rows": [_row(member) for member in pool.members],
        "is_long": len(pool.members) > MAX_EXPANDED,
        "holders": [_holding(holding) for holding in pool.holders],
        "troubles": [_trouble(trouble) for trouble in pool.troubles],
        "totals": _totals(pool),
        "commands": [
            _command(command) for command in overview.commands if command.command.alias == pool.alias
        ],
        "paused": _paused(pool),
        "buttons": _buttons(pool, visitor),
    }


def _buttons(pool: PoolPicture, visitor: Visitor) -> list[tuple[Action, str, str]]:
    """Those that this visitor may use."""
    if visitor.may_act:
        return [*BUTTONS, PAUSE if pool.pause is None else RESUME]
    return [RESUME] if visitor.may_resume and pool.pause is not None else []


def _paused(pool: PoolPicture) -> str | None:
    if pool.pause is None:
        return None
    count, all_of_them = pool.pause.processes, len(pool.members)
    where = "" if count == all_of_them else f" in {count} of {_several(all_of_them, 'process', 'processes')}"
    return f"Paused{where} until {_clock(pool.pause.until)}"


def _bar(counts: dict[str, int], most: int | None) -> list[Segment]:
    """What is rare is there only if there is any."""
    shown = {name: (LABELS[name], count) for name, count in counts.items() if count or name != "ending"}
    return bar(shown, most or 0)


def _count(pool: PoolPicture, name: str) -> int:
    return pool.unopened or 0 if name == "unopened" else int(getattr(pool.total, name))


def _limits(pool: PoolPicture) -> str:
    """The limits of one process, and of all."""
    each = {(member.stats.size, member.stats.max_outstanding) for member in pool.members}
    processes = _several(len(pool.members), "process", "processes")
    if len(each) > 1:
        limits = "with different limits"
    else:
        size, most = each.pop()
        limits = f"each with size {size} and {'no limit' if most is None else f'max_outstanding {most}'}"
    whole, of_host = pool.total.max_outstanding, pool.total.host_limit
    said = f"{processes}, {limits}"
    if whole is not None and whole != of_host:
        said += f": {whole} connections in total"
    return said if of_host is None else f"{said}; {humanize.of_host(pool.total.host_open, of_host)}"


def _several(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _times(title: str, spread: Spread) -> Times:
    return Times(
        title, humanize.duration(spread.p50), humanize.duration(spread.p95), humanize.duration(spread.mean)
    )


def _row(member: Member) -> Row:
    stats = member.stats
    most = stats.max_outstanding
    segments = _bar({name: int(getattr(stats, name)) for name in LABELS if name != "unopened"}, most)
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
        reported="now" if member.reported_ago < 2.5 else f"{member.reported_ago:.0f} s ago",
        is_late=member.reported_ago >= 4,
    )


def _holding(holding: Holding) -> dict[str, Any]:
    who, _, where = holding.who.partition(" in thread ")
    return {
        "seconds": humanize.duration(holding.seconds),
        "who": who,
        "where": where and f"in thread {where}",
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
    """Names, values and meanings of the counters since the processes started."""
    total = pool.total
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in total.closed_by_reason.items() if count)
    return [
        ("checkouts", f"{total.checkouts:,}", "connections checked out"),
        ("opened", f"{total.opened:,}", "connections opened"),
        ("closed", f"{total.closed:,}", reasons or "connections closed"),
        ("timeouts", f"{total.timeouts:,}", "callers that got no connection in time"),
        ("shed", f"{total.shed:,}", "of the timeouts, turned away while the pool was overloaded"),
        ("refused", f"{total.refused:,}", "by the server, which has too many"),
        ("broken", f"{total.broken:,}", "closed by the server, or interrupted in a statement"),
        ("reclaimed", f"{total.reclaimed:,}", "not returned by their holder"),
        ("abandoned", f"{total.abandoned:,}", "statements given up while the server executed them"),
        ("resets", f"{total.resets:,}", "sessions reset"),
        ("pins", f"{total.pins:,}", "connections pinned to the end of a request"),
        ("longest wait", humanize.duration(total.longest_wait_seconds), "of a single caller"),
        ("busy", _busy(total.busy_seconds, total.held_seconds), "of the time held was spent in the driver"),
    ]


def _busy(busy: float, held: float) -> str:
    """How much of the time that connections are held is used."""
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
