"""Numbers as people read them."""

from __future__ import annotations


def duration(seconds: float | None) -> str:
    """Of something that takes a moment: "3.2 ms"."""
    if seconds is None:
        return "–"
    if seconds <= 0:
        return "0 ms"
    if seconds < 0.001:
        return "< 1 ms"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return age(seconds)


def age(seconds: float) -> str:
    """Of something that exists: "3 min", "2 h 5 min", "4 d 1 h"."""
    whole = int(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def rate(per_second: float | None) -> str:
    """Of things in a second: "152", "3.4", "0.2"."""
    if per_second is None:
        return "–"
    if per_second >= 99.95:
        return f"{per_second:,.0f}"
    return f"{per_second:.1f}" if per_second else "0"


def of_host(is_open: int | None, limit: int) -> str:
    """Of a HOST_LIMIT. ``is_open``: None where no process has looked."""
    most = f"at most {limit} open" if is_open is None else f"{is_open} open of {limit}"
    return f"this host: {most} (HOST_LIMIT)"


def about(databases: list[str], scopes: list[str]) -> str:
    """Where a pool leads, and its scope."""
    where = " and ".join(databases)
    scope = f"scope {' and '.join(scopes)}" if scopes else ""
    return ", ".join(filter(None, [where, scope]))


def count(number: float | None) -> str:
    return "–" if number is None else f"{number:,.0f}"
