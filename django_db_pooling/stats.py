"""What a pool tells about itself."""

from __future__ import annotations

from dataclasses import dataclass, fields

MAXIMUM = frozenset({"longest_wait_seconds"})
NOT_ADDED = frozenset({"alias", "size", "max_outstanding"})


@dataclass
class Counts:
    """What a pool adds up; the fields of PoolStats that only grow."""

    checkouts: int = 0
    opened: int = 0
    closed: int = 0
    timeouts: int = 0
    resets: int = 0
    pins: int = 0
    reclaimed: int = 0
    broken: int = 0
    wait_seconds: float = 0.0
    longest_wait_seconds: float = 0.0
    held_seconds: float = 0.0
    busy_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PoolStats:
    """One alias's pool at one moment; counts and seconds since the process started.

    ``in_use``, ``idle``, ``opening`` and ``waiting`` are numbers of the moment, everything from
    ``checkouts`` on only grows. ``broken``: connections found dead or given up after an
    interrupted statement. ``held_seconds``: connections checked out;
    ``busy_seconds``: those inside of the driver, so busy / held says how well connections are used.
    ``resets``: sessions made as new. ``pins``: connections kept to the end of
    a request or scope on purpose. ``reclaimed``: checkouts that their holder dropped without giving back.
    """

    alias: str
    size: int
    max_outstanding: int | None
    in_use: int = 0
    idle: int = 0
    opening: int = 0
    waiting: int = 0
    checkouts: int = 0
    opened: int = 0
    closed: int = 0
    timeouts: int = 0
    resets: int = 0
    pins: int = 0
    reclaimed: int = 0
    broken: int = 0
    wait_seconds: float = 0.0
    longest_wait_seconds: float = 0.0
    held_seconds: float = 0.0
    busy_seconds: float = 0.0

    def plus(self, other: PoolStats) -> PoolStats:
        """Both together; alias and limits are this one's."""
        values = {}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name in NOT_ADDED:
                values[field.name] = mine
            elif field.name in MAXIMUM:
                values[field.name] = max(mine, theirs)
            else:
                values[field.name] = mine + theirs
        return PoolStats(**values)
