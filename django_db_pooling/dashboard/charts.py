"""Coordinates of the small SVG charts. All are strings, which no locale reformats in a template."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django_db_pooling.workers import humanize
from django_db_pooling.workers.overview import Moment, PoolPicture
from django_db_pooling.workers.reports import SAMPLE_SECONDS, SAMPLES

WIDTH, HEIGHT = 300, 60
BAR_WIDTH = 1000
# Above the highest value, so that lines are not clipped.
HEADROOM = 4
# What a chart goes up to at least, per second and in seconds: less is no event.
LEAST_RATE, LEAST_SECONDS = 1.0, 0.01

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Chart:
    """``lines`` and ``areas``: points of polylines and polygons, one for each stretch without a gap.

    ``top``: the value at its upper edge.
    """

    title: str
    name: str
    now: str
    most: str
    top: str
    summary: str
    lines: list[str]
    areas: list[str]
    # A second series, drawn as a dashed line.
    others: list[str]
    # The height of the line of the limit.
    limit: str | None = None
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar."""

    name: str
    label: str
    count: int
    x: str
    width: str


def bar(counts: dict[str, tuple[str, int]], full: int) -> list[Segment]:
    """``counts``: by name, a label and a number. ``full``: the number that fills the whole width."""
    unit = BAR_WIDTH / max(full, sum(number for _, number in counts.values()), 1)
    segments, x = [], 0.0
    for name, (label, number) in counts.items():
        segments.append(Segment(name, label, number, f"{x:.1f}", f"{number * unit:.1f}"))
        x += number * unit
    return segments


def charts(pool: PoolPicture) -> list[Chart]:
    """The last five minutes of a pool."""
    history = pool.history
    return [
        _in_use(pool),
        _rate("Checkouts per second", "checkouts", history, lambda moment: moment.checkouts),
        _rate("Opened per second", "opened", history, lambda moment: moment.opened),
        _mean("Mean wait", "wait", history, lambda moment: moment.wait),
        _mean("Mean time held", "held", history, lambda moment: moment.held),
    ]


def _in_use(pool: PoolPicture) -> Chart:
    history = pool.history
    in_use: Values = [float(moment.in_use) for moment in history]
    waiting: Values = [float(moment.waiting) for moment in history]
    most = pool.total.max_outstanding
    top = max([1.0, float(most or 0), *filter(None, in_use), *filter(None, waiting)])
    held, queued = pool.total.in_use, pool.total.waiting
    peak = _most([*in_use, held], humanize.count), _most([*waiting, queued], humanize.count)
    summary = f"In use and waiting over the last 5 minutes: now {held} in use, {queued} waiting"
    summary += f"; at most {peak[0]} in use, {peak[1]} waiting"
    return Chart(
        title="In use and waiting",
        name="in-use",
        now=f"{held} / {queued}",
        most=" / ".join(peak),
        top=humanize.count(top),
        summary=summary + ".",
        lines=_lines(history, in_use, top),
        areas=_areas(history, in_use, top),
        others=_lines(history, waiting, top),
        limit=None if most is None else _y(most, top),
        legend="filled: in use, dashed: waiting" + ("" if most is None else ", dotted: limit"),
    )


def _rate(title: str, name: str, history: list[Moment], value: Callable[[Moment], float | None]) -> Chart:
    return _chart(title, name, history, value, humanize.rate, LEAST_RATE)


def _mean(title: str, name: str, history: list[Moment], value: Callable[[Moment], float | None]) -> Chart:
    return _chart(title, name, history, value, humanize.duration, LEAST_SECONDS)


def _chart(
    title: str,
    name: str,
    history: list[Moment],
    value: Callable[[Moment], float | None],
    said: Callable[[float | None], str],
    least: float,
) -> Chart:
    values = [value(moment) for moment in history]
    top = _round_up(max([least, *filter(None, values)]))
    now = said(values[-1] if values else None)
    most = _most(values, said)
    return Chart(
        title=title,
        name=name,
        now=now,
        most=most,
        top=said(top),
        summary=f"{title} over the last 5 minutes: now {now}, at most {most}.",
        lines=_lines(history, values, top),
        areas=_areas(history, values, top),
        others=[],
    )


def _round_up(value: float) -> float:
    """To 1, 2 or 5 times a power of ten."""
    unit: float = 10.0 ** math.floor(math.log10(value))
    return next(step * unit for step in (1, 2, 5, 10) if value <= step * unit * (1 + 1e-9))


def _most(values: Values, said: Callable[[float | None], str]) -> str:
    known = [value for value in values if value is not None]
    return said(max(known, default=None))


def _y(value: float, top: float) -> str:
    return f"{HEIGHT - (HEIGHT - HEADROOM) * value / top:.1f}"


def _stretches(history: list[Moment], values: Values, top: float) -> list[list[tuple[str, str]]]:
    """Points without a gap between them; the right edge is the latest moment."""
    stretches: list[list[tuple[str, str]]] = []
    last = None
    for moment, value in zip(history, values, strict=True):
        if value is None:
            continue
        ago = history[-1].at - moment.at
        x = WIDTH * (1 - ago / (SAMPLE_SECONDS * (SAMPLES - 1)))
        if last is None or moment.at - last > SAMPLE_SECONDS * 1.5:
            stretches.append([])
        stretches[-1].append((f"{x:.1f}", _y(value, top)))
        last = moment.at
    return stretches


def _lines(history: list[Moment], values: Values, top: float) -> list[str]:
    found = []
    for points in _stretches(history, values, top):
        if len(points) == 1:
            # A single point would be invisible.
            points = [(f"{max(0.0, float(points[0][0]) - 2):.1f}", points[0][1]), *points]
        found.append(" ".join(f"{x},{y}" for x, y in points))
    return found


def _areas(history: list[Moment], values: Values, top: float) -> list[str]:
    found = []
    for points in _stretches(history, values, top):
        line = " ".join(f"{x},{y}" for x, y in points)
        found.append(f"{points[0][0]},{HEIGHT} {line} {points[-1][0]},{HEIGHT}")
    return found
