"""What a pool counts, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, NamedTuple

from django_db_pooling.pool.histogram import Durations, Histogram

MAXIMUM = frozenset({"longest_wait_seconds", "paused"})
NOT_ADDED = frozenset({"alias", "size", "max_outstanding", "open_when_refused", "host_limit", "host_open"})


class Closed(StrEnum):
    """Why a connection was closed."""

    AGE = "age"
    IDLE = "idle"
    # More idle ones than wanted, more in all than a lowered limit allows; or it had to make room.
    SURPLUS = "surplus"
    # recycle(), close_all(), other settings.
    RECYCLED = "recycled"
    # Found broken, or given up after an interrupted statement.
    BROKEN = "broken"
    # Its session can't be reset, its transaction can't be ended, or its holder didn't return it.
    UNCLEAN = "unclean"

    # Enum's is a Python function, in which another thread may run: counts by reason would get lost.
    __hash__ = str.__hash__


class Trouble(NamedTuple):
    """Something that went wrong. ``at``: of ``time.monotonic()``. ``kind``: "connect", "full", "timeout" or
    "lost".
    """

    at: float
    kind: str
    error: str


class Counts:
    """What a pool adds up: what of PoolStats only grows."""

    def __init__(self) -> None:
        self.checkouts = 0
        # Of these, those that had to queue.
        self.queued = 0
        # The largest number of checkouts without queueing that read() has reported.
        self.at_once = 0
        self.opened = 0
        self.timeouts = 0
        # Of these, those that were turned away while the pool was overloaded.
        self.shed = 0
        self.refused = 0
        self.resets = 0
        self.pins = 0
        self.reclaimed = 0
        self.abandoned = 0
        self.broken = 0
        self.longest_wait_seconds = 0.0
        self.busy_seconds = 0.0
        self.closed: dict[str, int] = dict.fromkeys(Closed, 0)
        self.waits = Histogram()
        self.helds = Histogram()
        self.connects = Histogram()

    def read(self) -> dict[str, Any]:
        """The fields of PoolStats. Changes ``at_once``."""
        values = dict(vars(self))
        del values["queued"], values["at_once"]
        closed = dict(values["closed"])
        # Who queued is counted as such a moment before the checkout is. What was read never goes back: rate()
        # would take that for a restart.
        self.at_once = max(self.at_once, self.checkouts - self.queued)
        waits = self.waits.read(at_once=self.at_once)
        helds, connects = self.helds.read(), self.connects.read()
        return values | {
            "closed": sum(closed.values()),
            "closed_by_reason": {str(reason): count for reason, count in closed.items()},
            "wait_seconds": waits.seconds,
            "held_seconds": helds.seconds,
            "waits": waits,
            "helds": helds,
            "connects": connects,
        }


@dataclass(frozen=True, slots=True)
class PoolStats:
    """One alias's pool at one moment; counts and seconds since the process started.

    ``in_use``, ``idle``, ``opening``, ``ending`` and ``waiting`` are numbers of the moment; everything from
    ``checkouts`` on only grows. ``ending``: connections whose statement was given up, until the server has
    ended it. ``broken``: connections closed by the server or interrupted in a statement. ``held_seconds``:
    connections checked out; ``busy_seconds``: those in statements, commits and rollbacks, so busy / held says
    how well connections are used. ``open_when_refused``: how many were open when the server refused another
    one, in the last minute; None: it didn't. ``refused``: how often it has. ``host_limit``, ``host_open``:
    how many all processes of the host may have open together (HOST_LIMIT, the lowest of theirs), and have;
    None: no such limit, or this process hasn't used the alias yet and doesn't know. ``paused``: seconds until
    the pool's pause ends; None: it isn't paused. ``shed``: of the timeouts, callers that were turned away
    while the pool was overloaded. ``resets``: sessions that were reset. ``pins``: connections pinned to the
    end of a request or scope. ``reclaimed``: connections whose holder ended without returning them.
    ``abandoned``: statements that were given up while the server executed them. ``closed_by_reason``:
    ``closed``, by "age", "idle", "surplus", "recycled", "broken" and "unclean".
    ``waits``, ``helds``, ``connects``: how long it took to get a connection, how long each was held, and to
    open one.
    """

    alias: str
    size: int
    max_outstanding: int | None
    in_use: int = 0
    idle: int = 0
    opening: int = 0
    ending: int = 0
    waiting: int = 0
    open_when_refused: int | None = None
    host_limit: int | None = None
    host_open: int | None = None
    paused: float | None = None
    checkouts: int = 0
    opened: int = 0
    closed: int = 0
    timeouts: int = 0
    shed: int = 0
    refused: int = 0
    resets: int = 0
    pins: int = 0
    reclaimed: int = 0
    abandoned: int = 0
    broken: int = 0
    wait_seconds: float = 0.0
    longest_wait_seconds: float = 0.0
    held_seconds: float = 0.0
    busy_seconds: float = 0.0
    closed_by_reason: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(map(str, Closed), 0))
    waits: Durations = field(default=Durations(), repr=False)
    helds: Durations = field(default=Durations(), repr=False)
    connects: Durations = field(default=Durations(), repr=False)

    @property
    def free(self) -> int | None:
        """How many could be checked out at this moment without waiting; None: no limit."""
        if self.paused is not None:
            return 0
        limits = [limit for limit in (self.max_outstanding, self.open_when_refused) if limit is not None]
        if self.host_limit is not None and self.host_open is not None:
            limits.append(
                self.host_limit - self.host_open + self.in_use + self.idle + self.opening + self.ending
            )
        return max(0, min(limits) - self.in_use - self.opening - self.ending) if limits else None

    def plus(self, other: PoolStats) -> PoolStats:
        """Both together; alias and limits are this one's."""
        values = {}
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            if one.name in NOT_ADDED:
                values[one.name] = mine
            elif one.name in MAXIMUM:
                values[one.name] = max((each for each in (mine, theirs) if each is not None), default=None)
            elif isinstance(mine, Durations):
                values[one.name] = mine.plus(theirs)
            elif isinstance(mine, Mapping):
                values[one.name] = {key: mine[key] + theirs[key] for key in mine}
            else:
                values[one.name] = mine + theirs
        return PoolStats(**values)
