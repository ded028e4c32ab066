"""Numbers to the coordinates of the inline SVGs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MARGIN = 6


@dataclass(frozen=True)
class Sparkline:
    width: int
    height: int
    line: str
    area: str
    end: tuple[float, float]
    low: int
    high: int


@dataclass(frozen=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    label: str


def sparkline(values: Sequence[int], width: int = 720, height: int = 120) -> Sparkline | None:
    """The line through `values`, oldest first; None where there is no line to draw."""
    if len(values) < 2:
        return None
    low, high = min(values), max(values)
    step = (width - 2 * MARGIN) / (len(values) - 1)
    scale = (height - 2 * MARGIN) / ((high - low) or 1)
    points = [
        (round(MARGIN + i * step, 1), round(height - MARGIN - (v - low) * scale, 1))
        for i, v in enumerate(values)
    ]
    line = " ".join(f"{x},{y}" for x, y in points)
    area = f"{MARGIN},{height} {line} {width - MARGIN},{height}"
    return Sparkline(width, height, line, area, points[-1], low, high)


def bars(values: Sequence[tuple[str, int]], width: int = 720, height: int = 120) -> list[Bar]:
    """One bar for each (label, value), as high as the box where the value is the largest."""
    top = max((value for _, value in values), default=0) or 1
    step = width / (len(values) or 1)
    return [
        Bar(
            round(i * step + step * 0.15, 1),
            round(height - height * value / top, 1),
            round(step * 0.7, 1),
            round(height * value / top, 1),
            label,
        )
        for i, (label, value) in enumerate(values)
    ]
