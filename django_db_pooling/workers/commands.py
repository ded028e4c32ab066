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

# Seconds in which a command is carried out, and for which it is shown. A pause and its end are carried out
# for as long as there is a file of them: a process that was stopped meanwhile must not miss them.
VALID = 30.0
SHOWN = 120.0
# Seconds that a pause may last; after so many a command is removed. Who starts meanwhile joins it.
MAX_PAUSE = KEPT = 3600.0
PAUSE = 60.0


class Action(StrEnum):
    """What a command can be."""

    # Replace every connection as it comes back.
    RECYCLE = "recycle"
    # Close those that nobody uses.
    CLOSE_IDLE = "close-idle"
    # Hand out none for some time; and not any longer.
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class Command:
    """``id``: unique. ``at``: seconds of ``time.time()``. ``by``: the name of the user who gave it.

    ``seconds``: for how long, of a pause.
    """

    id: str
    at: float
    alias: str
    action: Action
    by: str
    seconds: float | None = None

    @property
    def seconds_left(self) -> float:
        """Of a pause."""
        # What is from the future was given before the clock was set back.
        return min(self.seconds or 0.0, MAX_PAUSE) - max(0.0, time.time() - self.at)


def give(alias: str, action: Action, by: str, seconds: float | None = None) -> Command:
    """To all processes, this one included (I/O). Raises OSError where the directory can't be used."""
    command = Command(status_dir.new_id(time.time_ns()), time.time(), alias, action, redact(by), seconds)
    with status_dir.opened(make=True) as directory:
        directory.write(Kind.COMMAND, command.id, json.dumps(asdict(command)).encode())
    logger.info("%s: %s requested by %s", redact(alias), action, command.by)
    return command


def given(seconds: float = SHOWN) -> list[Command]:
    """Those of the last two minutes, the latest first (reads files)."""
    try:
        with status_dir.opened() as directory:
            found = directory.read(Kind.COMMAND, directory.ids(Kind.COMMAND), _decoded)
    except OSError:
        return []
    now = time.time()
    # Nor from the future: then the clock was set back.
    return sorted(
        (command for command in found if abs(now - command.at) <= seconds),
        key=lambda command: (command.at, command.id),
        reverse=True,
    )


def pauses() -> dict[str, float]:
    """By alias, how many more seconds it is to be paused (reads files)."""
    left: dict[str, float] = {}
    # As who carries them out one after the other: the latest end counts.
    for command in reversed(given(KEPT)):
        if command.action is Action.RESUME:
            left.pop(command.alias, None)
        elif command.action is Action.PAUSE:
            left[command.alias] = max(left.get(command.alias, 0.0), command.seconds_left)
    return {alias: seconds for alias, seconds in left.items() if seconds > 0}


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
            (command for command in new if self._is_due(command, now - command.at, clock)),
            key=lambda command: (command.at, command.id),
        )
        known = {one: since for one, since in self.carried_out.items() if one in ids or clock - since <= KEPT}
        self.carried_out = known | dict.fromkeys((command.id for command in found), clock)
        return found

    def _is_due(self, command: Command, age: float, clock: float) -> bool:
        valid = KEPT if command.action in (Action.PAUSE, Action.RESUME) else VALID
        # By ages: the clock may have been set since this process started.
        return abs(age) <= valid and age < clock - self._started
