"""Commands from one process of a site to all on its host: small files that each looks for every second.

They are in the directory of the reports.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from enum import StrEnum

from django_db_pooling import status_dir
from django_db_pooling.log import logger, redact
from django_db_pooling.status_dir import Kind
from django_db_pooling.workers.decoding import decode

# Seconds in which a command is carried out, and after which it is removed.
VALID = 30.0
KEPT = 120.0


class Action(StrEnum):
    """What a command can be."""

    # Replace every connection as it comes back.
    RECYCLE = "recycle"
    # Close those that nobody uses.
    CLOSE_IDLE = "close-idle"


@dataclass(frozen=True, slots=True)
class Command:
    """``id``: unique. ``at``: seconds of ``time.time()``. ``by``: the name of the user who gave it."""

    id: str
    at: float
    alias: str
    action: Action
    by: str


def give(alias: str, action: Action, by: str) -> Command:
    """To all processes, this one included (I/O). Raises OSError where the directory can't be used."""
    command = Command(status_dir.new_id(time.time_ns()), time.time(), alias, action, redact(by))
    with status_dir.opened(make=True) as directory:
        directory.write(Kind.COMMAND, command.id, json.dumps(asdict(command)).encode())
    logger.info("%s: %s requested by %s", redact(alias), action, command.by)
    return command


def given() -> list[Command]:
    """Those of the last two minutes, the latest first (reads files)."""
    try:
        with status_dir.opened() as directory:
            found = directory.read(Kind.COMMAND, directory.ids(Kind.COMMAND), _decoded)
    except OSError:
        return []
    now = time.time()
    # Nor from the future: then the clock was set back.
    return sorted(
        (command for command in found if abs(now - command.at) <= KEPT),
        key=lambda command: (command.at, command.id),
        reverse=True,
    )


def _decoded(one: str, text: bytes) -> Command:
    """Raises ValueError where it isn't what this version of the package writes."""
    command = decode(Command, text)
    if command.id != one:
        raise ValueError("its id does not match its file name")
    return command


class Listener:
    """Finds what this process has to carry out: each command once, and none from before its start."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        # By id: when it was carried out here, of time.monotonic(). As long as its file may be found again.
        self.carried_out: dict[str, float] = {}

    def due(self) -> list[Command]:
        """New commands, the oldest first (reads files, and removes old ones)."""
        try:
            with status_dir.opened() as directory:
                directory.clear(Kind.COMMAND, KEPT)
                ids = set(directory.ids(Kind.COMMAND))
                new = directory.read(Kind.COMMAND, ids - self.carried_out.keys(), _decoded)
        except OSError:
            return []
        # In this order: what came after this process's start must not seem to be older than that.
        now, clock = time.time(), time.monotonic()
        found = sorted(
            (command for command in new if self._is_due(now - command.at, clock)),
            key=lambda command: (command.at, command.id),
        )
        known = {one: since for one, since in self.carried_out.items() if one in ids or clock - since <= KEPT}
        self.carried_out = known | dict.fromkeys((command.id for command in found), clock)
        return found

    def _is_due(self, age: float, clock: float) -> bool:
        # By ages: the clock may have been set since this process started.
        return abs(age) <= VALID and age < clock - self._started
