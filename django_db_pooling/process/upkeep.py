"""What happens to the connection managers of this process without their users: housekeeping, fork, exit."""

from __future__ import annotations

import atexit
import weakref
from typing import Protocol

from django_db_pooling.ldap.connector import renew_module_lock
from django_db_pooling.process import fork
from django_db_pooling.process.duties import Duties
from django_db_pooling.process.housekeeper import Housekeeper


class Kept(Protocol):
    """What is looked after. ``name``: in the log, always the same. ``duties``: its own, since others may have
    the same name.
    """

    duties: Duties

    @property
    def name(self) -> str: ...

    def look_after(self) -> bool:
        """Called every second (I/O). Whether it needs to be called again."""

    def abandon(self) -> None:
        """Called in a forked child: what there is of connections is the parent's."""

    def close(self) -> None:
        """Called at the end of the process."""


_known: weakref.WeakSet[Kept] = weakref.WeakSet()
_kept: weakref.WeakSet[Kept] = weakref.WeakSet()


def know(thing: Kept) -> None:
    """Have it abandoned in forked children, and closed at the end."""
    _known.add(thing)


def look_after(thing: Kept) -> None:
    """From now on, as long as somebody else has it."""
    _kept.add(thing)
    _housekeeper.ensure_running()


def _look_after_all() -> bool:
    # Where it fails, too: it is to be tried again.
    wanted = [
        thing.duties.do(f"looking after the connections to {thing.name}", thing.look_after) is not False
        for thing in list(_kept)
    ]
    return any(wanted)


_housekeeper = Housekeeper(_look_after_all)


def _after_fork() -> None:
    global _housekeeper
    _housekeeper = Housekeeper(_look_after_all)
    renew_module_lock()
    for thing in list(_known):
        thing.abandon()


def _at_exit() -> None:
    for thing in list(_known):
        thing.duties.do(f"closing the connections to {thing.name}", thing.close)


fork.in_child(_after_fork)
atexit.register(_at_exit)
