"""Sites of several users in processes of their own, for a script that runs as root: ``tests/scripts.py``.

Each is a forked child, since other users may not be able to read where Python is. It does what it is told, an
expression at a time, and says how that went.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from django.db import connection

from django_db_pooling.workers import commands, overview
from django_db_pooling.workers.commands import Action

PATIENCE = 20.0  # seconds

said: list[str] = []


class Remembers(logging.Handler):
    """What the package writes into the log of this process."""

    def emit(self, record: logging.LogRecord) -> None:
        said.append(record.getMessage())


logging.getLogger("django_db_pooling").addHandler(Remembers())


def query() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, (condition, said, overview.look(own=False))
        time.sleep(0.05)


def heard() -> list[int]:
    return [worker.pid for worker in overview.look(own=False).workers]


def is_heard() -> bool:
    """This process, and no other."""
    return heard() == [os.getpid()]


def is_silenced() -> bool:
    return any("can't share pool status" in line for line in said) and heard() == []


def recycle(processes: int = 1) -> None:
    """Until so many have carried it out."""
    one = commands.give("default", Action.RECYCLE, "somebody")
    until(lambda: (one, processes) in [(it.command, it.carried_out) for it in overview.look(False).commands])


def may_not(path: str) -> None:
    """Do anything with this directory."""

    def open_up() -> None:
        os.chmod(path, 0o777)

    def move() -> None:
        os.rename(path, f"{path}-away")

    for attempt in (lambda: os.listdir(path), lambda: os.rmdir(path), open_up, move):
        try:
            attempt()
        except PermissionError:
            continue
        raise AssertionError(f"{attempt} is possible")


class UserSite:
    """A process of this user. All that it needs is imported by now: use a pool before."""

    def __init__(self, user: int) -> None:
        self.user = user
        reading, self._orders = os.pipe()
        self._answer, writing = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(reading)
            os.close(writing)
            return
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        said.clear()
        with open(reading) as lines, open(writing, "w", buffering=1) as answers:
            for line in iter(lines.readline, "\n"):
                try:
                    told = ["ok", eval(line)]
                except BaseException:
                    told = ["failed", traceback.format_exc()]
                answers.write(json.dumps(told) + "\n")
        # As a server's worker ends.
        sys.exit()

    def do(self, *expressions: str) -> Any:
        """The value of the last one."""
        for expression in expressions:
            os.write(self._orders, f"{expression}\n".encode())
            answer = b""
            while not answer.endswith(b"\n"):
                more = os.read(self._answer, 65536)
                assert more, "the site has ended"
                answer += more
            state, value = json.loads(answer)
            assert state == "ok", value
        return value

    def end(self) -> None:
        os.write(self._orders, b"\n")
        assert os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) == 0
