"""What this process has to look after without anybody's request: each second, in a forked child, at exit.

Whatever has such needs adds itself. All of it is called in the order in which it was added, at exit, too.
"""

from __future__ import annotations

import atexit
import weakref
from typing import Protocol

from django_db_pooling.process import fork
from django_db_pooling.process.housekeeper import Housekeeper
from django_db_pooling.process.tasks import Tasks


class Thing(Protocol):
    """Something that is looked after. ``tasks``: its own, since others may have the same name."""

    @property
    def name(self) -> str:
        """What the log calls it: always the same."""

    @property
    def tasks(self) -> Tasks: ...

    def every_second(self) -> bool:
        """Called each second while anything needs it (I/O). Whether this one needs another call."""

    def forked(self) -> None:
        """Called in a forked child: what there is of connections and locks is the parent's. Must not fail."""

    def end(self) -> None:
        """Called at the end of the process."""


# By id(), in the order of add(); a thing may be collected at any time.
_things: weakref.WeakValueDictionary[int, Thing] = weakref.WeakValueDictionary()


def add(thing: Thing) -> None:
    """Look after it for as long as it is referred to elsewhere; adding it again changes nothing.

    Its ``every_second`` is called only after ``ensure_running()``.
    """
    _things[id(thing)] = thing
    # At exit this comes before whatever has registered there earlier: an exporter that is added hands its
    # last figures to a library that ends there, too.
    atexit.unregister(_at_exit)
    atexit.register(_at_exit)


def ensure_running() -> None:
    """Call ``every_second`` from now on, until all return that they don't need it. Costs little."""
    _housekeeper.ensure_running()


def _all() -> list[Thing]:
    return [thing for ref in _things.valuerefs() if (thing := ref()) is not None]


def _every_second() -> bool:
    # One that fails is to be tried again.
    needed = [
        thing.tasks.run(f"looking after {thing.name}", thing.every_second) is not False for thing in _all()
    ]
    return any(needed)


_housekeeper = Housekeeper(_every_second)


def _after_fork() -> None:
    global _housekeeper
    _housekeeper = Housekeeper(_every_second)
    # Should one fail, nothing here may be used that is the parent's: it is tried again before the next use.
    for thing in _all():
        thing.forked()


def _at_exit() -> None:
    # Not in a forked child that hasn't noticed: it has used nothing.
    if fork.noticed[0]:
        for thing in _all():
            thing.tasks.run(f"ending {thing.name}", thing.end)


fork.in_child(_after_fork)
