"""The pools of the process that answers, for people and for programs. Neither view touches the database."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from django_db_pooling import pooling

REFRESH_SECONDS = 2
BAR_WIDTH = 1000

MEANINGS = {
    "checkouts": "times a connection was taken",
    "opened": "connections opened",
    "closed": "connections closed",
    "timeouts": "callers that gave up waiting",
    "resets": "sessions made as new",
    "pins": "connections kept to the end of a request",
    "reclaimed": "taken and never given back",
    "broken": "connections never to be used again",
    "wait_seconds": "spent waiting, all callers together",
    "longest_wait_seconds": "the longest wait of one caller",
    "held_seconds": "connections held, all together",
    "busy_seconds": "inside statements, all together",
}


@dataclass(frozen=True)
class Segment:
    name: str
    count: int
    x: float
    width: float


@dataclass(frozen=True)
class Counter:
    name: str
    value: str
    meaning: str


def _stats() -> dict[str, dict[str, object]]:
    if os.environ.get("POOLING") == "off":
        return {}
    return {alias: asdict(stats) for alias, stats in pooling.stats().items()}


def _segments(stats: dict[str, object]) -> tuple[list[Segment], float]:
    """What fills the bar, whose full width is `max_outstanding`, and where `size` is on it."""
    counts = {name: int(stats[name]) for name in ("in_use", "opening", "idle")}
    full = stats["max_outstanding"] or max(sum(counts.values()), int(stats["size"]))
    unit = BAR_WIDTH / full
    segments, x = [], 0.0
    for name, count in counts.items():
        segments.append(Segment(name, count, x, count * unit))
        x += count * unit
    return segments, stats["size"] * unit


def _counters(stats: dict[str, object]) -> list[Counter]:
    return [
        Counter(
            name.removesuffix("_seconds").replace("_", " "),
            f"{stats[name]:,.3f} s" if name.endswith("_seconds") else f"{stats[name]:,}",
            meaning,
        )
        for name, meaning in MEANINGS.items()
        if name in stats
    ]


@require_safe
@never_cache
def pool(request: HttpRequest) -> HttpResponse:
    pools = []
    for stats in _stats().values():
        segments, size_x = _segments(stats)
        pools.append({"stats": stats, "segments": segments, "size_x": size_x, "counters": _counters(stats)})
    context = {
        "pools": pools,
        "pid": os.getpid(),
        "refresh_seconds": REFRESH_SECONDS,
        "bar_width": BAR_WIDTH,
    }
    return render(request, "bank/pool.html", context)


@require_safe
@never_cache
def pool_json(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"pid": os.getpid(), "pools": _stats()})
