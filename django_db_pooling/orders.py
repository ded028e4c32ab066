"""What one process of a site tells all others on its host to do: small files that each looks at every second.

They lie where the processes tell each other about their pools, and count for nothing where anybody else could
have put them there.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from django_db_pooling import workers
from django_db_pooling.log import logger, redact

# Seconds after which nobody carries an order out any more, and after which it is forgotten.
VALID = 30.0
REMEMBERED = 120.0
SUFFIX = ".order"
MOST_OBEYED = 20


class Action(StrEnum):
    """What can be ordered."""

    # Replace every connection as it comes back.
    RECYCLE = "recycle"
    # Close those that nobody uses.
    CLOSE_IDLE = "close-idle"


@dataclass(frozen=True, slots=True)
class Order:
    """``number``: no two have the same. ``at``: seconds of ``time.time()``. ``by``: whoever gave it."""

    number: int
    at: float
    alias: str
    action: Action
    by: str


def give(alias: str, action: Action, by: str) -> Order:
    """Tell all processes, this one included (I/O). Raises OSError where they can't be told."""
    where = workers.own_directory()
    if not workers.is_own(where, and_nobody_elses=True):
        raise PermissionError(f"others may write into {where}")
    for path in where.glob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > REMEMBERED:
                path.unlink()
    order = Order(time.time_ns(), time.time(), alias, action, redact(by))
    path = where / f"{order.number}{SUFFIX}"
    fresh = path.with_suffix(".new-order")
    fresh.write_text(json.dumps(asdict(order)))
    fresh.replace(path)
    logger.info("%s: %s was ordered by %s", redact(alias), action, order.by)
    return order


def given() -> list[Order]:
    """Those of the last two minutes, the latest first (reads files)."""
    where = workers.directory()
    if not workers.is_own(where, and_nobody_elses=True):
        return []
    found = []
    for path in where.glob(f"*{SUFFIX}"):
        order = _read(path)
        if order is not None and time.time() - order.at <= REMEMBERED:
            found.append(order)
    return sorted(found, key=lambda order: order.number, reverse=True)


def _read(path: Path) -> Order | None:
    try:
        told = json.loads(path.read_text())
        return Order(**{**told, "action": Action(told["action"])})
    except (OSError, ValueError, KeyError, TypeError):
        # Gone this instant, or of another version.
        return None


class Listener:
    """Finds what this process has to carry out: each order once, and none from before its start."""

    def __init__(self) -> None:
        self._since = time.time()
        # The latest orders that were carried out here.
        self.obeyed: deque[int] = deque(maxlen=MOST_OBEYED)

    def due(self) -> list[Order]:
        """New orders, the oldest first (reads files)."""
        now = time.time()
        found = [
            order
            for order in reversed(given())
            if order.at > self._since and now - order.at <= VALID and order.number not in self.obeyed
        ]
        self.obeyed.extend(order.number for order in found)
        return found
