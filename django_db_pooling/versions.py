"""Libraries in versions that work, but hurt. Looks only at what this process has loaded; imports nothing."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import metadata
from typing import NamedTuple

from django_db_pooling.conf import Problem
from django_db_pooling.process import green


class Sound(NamedTuple):
    """``module``: in ``sys.modules`` where the distribution is in use. ``least``: the first sound version."""

    distribution: str
    module: str
    least: str
    reason: str
    matters: Callable[[], bool] = lambda: True


def _gevent_has_patched() -> bool:
    return green.patched("socket")


SOUND = [
    Sound(
        "gevent",
        "gevent",
        "26.8",
        "a fork may never return, and a greenlet that a native thread wakes may sleep on.",
        _gevent_has_patched,
    ),
    Sound(
        "greenlet",
        "greenlet",
        "3.5.6",
        "a race may leave the garbage collector off, and memory grows.",
        _gevent_has_patched,
    ),
    # install_as_MySQLdb() makes PyMySQL the module MySQLdb, but nothing below it.
    Sound("PyMySQL", "pymysql", "1.2.4", "it has known security faults."),
    Sound("mysqlclient", "MySQLdb._mysql", "2.3.1", "it has known security faults."),
    Sound(
        "gunicorn",
        "gunicorn.workers.gasgi",
        "26.1",
        "request_finished never comes in its ASGI worker, so a request holds its connection for too long.",
    ),
]


def warnings() -> list[Problem]:
    found = []
    for sound in SOUND:
        version = _version(sound.distribution) if sound.module in sys.modules and sound.matters() else ""
        # Without a number nothing is known of it.
        if version[:1].isdecimal() and _release(version) < _release(sound.least):
            found.append(
                Problem(
                    "django_db_pooling.W010",
                    f"{sound.distribution} {version} is older than {sound.least}: {sound.reason}",
                    f"pip install '{sound.distribution}>={sound.least}'.",
                )
            )
    return found


def _version(distribution: str) -> str:
    """By its metadata: PyMySQL's ``__version__`` is that of the mysqlclient it stands for."""
    try:
        return str(metadata.version(distribution))
    except Exception:
        return ""


def _release(version: str) -> list[int]:
    """Its numbers, without what comes behind the release ("rc1", ".post1")."""
    return [int(number) for number in re.split(r"[^\d.]", version)[0].split(".") if number]
