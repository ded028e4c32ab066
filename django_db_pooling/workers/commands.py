"""What one process of a site tells all others on its host to do: small files that each looks at every second.

They lie where the processes tell each other about their pools.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from enum import StrEnum

from django_db_pooling.log import logger, redact
from django_db_pooling.workers import status_dir
from django_db_pooling.workers.decoding import decode
from django_db_pooling.workers.status_dir import Kind

# Seconds after which nobody carries a command out any more, and after which it is forgotten.
VALID = 30.0
REMEMBERED = 120.0


class Action(StrEnum):
    """What can be commanded."""

    # Replace every connection as it comes back.
    RECYCLE = "recycle"
    # Close those that nobody uses.
    CLOSE_IDLE = "close-idle"


@dataclass(frozen=True, slots=True)
class Command:
    """``id``: no two have the same. ``at``: seconds of ``time.time()``. ``by``: whoever gave it."""

    id: str
    at: float
    alias: str
    action: Action
    by: str


def give(alias: str, action: Action, by: str) -> Command:
    """Tell all processes, this one included (I/O). Raises OSError where they can't be told."""
    command = Command(status_dir.new_id(time.time_ns()), time.time(), alias, action, redact(by))
    with status_dir.opened(make=True) as directory:
        directory.write(Kind.COMMAND, command.id, json.dumps(asdict(command)).encode())
    logger.info("%s: %s requested by %s", redact(alias), action, command.by)
    return command


def given() -> list[Command]:
    """Those of the last two minutes, the latest first (reads files)."""
    try:
        with status_dir.opened() as directory:
            found = directory.read(Kind.COMMAND, directory.ids(Kind.COMMAND), _understood)
    except OSError:
        return []
    now = time.time()
    # Neither older than that nor from a future in which the clock was set back.
    return sorted(
        (command for command in found if abs(now - command.at) <= REMEMBERED),
        key=lambda command: (command.at, command.id),
        reverse=True,
    )


def _understood(one: str, text: bytes) -> Command:
    """Raises ValueError where it isn't what this version of the package writes."""
    command = decode(Command, text)
    if command.id != one:
        raise ValueError("its id does not match its file name")
    return command


class Listener:
    """Finds what this process has to carry out: each command once, and none from before its start."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        # The ids of what was carried out here, and when, of time.monotonic(): for as long as they are there,
        # and could be found again.
        self.carried_out: dict[str, float] = {}

    def due(self) -> list[Command]:
        """New commands, the oldest first (reads files, and removes those that are forgotten)."""
        try:
            with status_dir.opened() as directory:
                directory.clear(Kind.COMMAND, REMEMBERED)
                ids = set(directory.ids(Kind.COMMAND))
                news = directory.read(Kind.COMMAND, ids - self.carried_out.keys(), _understood)
        except OSError:
            return []
        # In this order, so that nobody seems younger than a command that came after its start.
        now, clock = time.time(), time.monotonic()
        found = sorted(
            (command for command in news if self._is_due(now - command.at, clock)),
            key=lambda command: (command.at, command.id),
        )
        known = {
            one: since for one, since in self.carried_out.items() if one in ids or clock - since <= REMEMBERED
        }
        self.carried_out = known | dict.fromkeys((command.id for command in found), clock)
        return found

    def _is_due(self, age: float, clock: float) -> bool:
        # By ages: the clock may have been set since this process started.
        return abs(age) <= VALID and age < clock - self._started
