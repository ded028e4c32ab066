"""What this process has to look after without anybody's request: each second, in a forked child, at exit.

Whatever has such needs adds itself. All of it is called in the order in which it was added, at exit, too;
what was added with ``last`` after that. One thread calls all of it each second, but for what has its own.
"""

from __future__ import annotations

import atexit
import sys
import weakref
from typing import Any, Protocol

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


# Among the finalizers of a worker process.
_LAST = -1000
# The process in which end_with_worker() was called.
_told_of_end: object = None
# The process in which end() was, as long as nothing needs looking after again.
_ended: object = None

# By id(), in the order of add(); a thing may be collected at any time. And those that come after all others.
_things: weakref.WeakValueDictionary[int, Thing] = weakref.WeakValueDictionary()
_last_things: weakref.WeakValueDictionary[int, Thing] = weakref.WeakValueDictionary()
# Of those that have a thread of their own.
_housekeepers: weakref.WeakKeyDictionary[object, Housekeeper] = weakref.WeakKeyDictionary()


def add(thing: Thing, *, own_thread: bool = False, last: bool = False) -> None:
    """Look after it for as long as it is referred to elsewhere; adding it again changes nothing.

    Its ``every_second`` is called only after ``ensure_running()``. ``own_thread``: it may take long, and the
    others don't wait for it. ``last``: it is called after those that are not.
    """
    (_last_things if last else _things)[id(thing)] = thing
    if own_thread and thing not in _housekeepers:
        _housekeepers[thing] = _housekeeper_of(thing)


def ensure_running(thing: object = None) -> None:
    """Call ``every_second`` from now on, until it returns that no more calls are needed. Costs little.

    ``thing``: the one that needs it, where that has a thread of its own; else all that have none.
    """
    global _ended
    _ended = None
    (_housekeeper if thing is None else _housekeepers[thing]).ensure_running()


def end_before_others() -> None:
    """At exit, come before whatever has been registered there until now."""
    atexit.unregister(end)
    atexit.register(end)


def end_with_worker() -> None:
    """In a worker process that ends without atexit, by os._exit(): end before that, too.

    Those of multiprocessing and of billiard, which is Celery's, have finalizers of their own. Celery's pool
    ends its workers without these, but sends a signal. A child begins without its parent's finalizers, so
    call this in each process; again, it changes nothing.
    """
    global _told_of_end
    if _told_of_end is fork.process:
        return
    _told_of_end = fork.process
    for name in ("multiprocessing", "billiard"):
        util, process = sys.modules.get(f"{name}.util"), sys.modules.get(f"{name}.process")
        if util is not None and process is not None and process.current_process()._parent_pid is not None:
            util.Finalize(None, end, exitpriority=_LAST)
    signals = sys.modules.get("celery.signals")
    if signals is not None:
        signals.worker_process_shutdown.connect(_worker_ends, weak=False, dispatch_uid=__name__)


def end() -> None:
    """Of the process: say goodbye. Again, it closes what has been opened since."""
    global _ended
    # Not in a forked child that hasn't noticed: it has used nothing.
    if fork.noticed[0]:
        # A worker may live on for a moment, in which MIN_SIZE would be opened again.
        _ended = fork.process
        for thing in _all():
            thing.tasks.run(f"ending {thing.name}", thing.end)


def _worker_ends(**kwargs: Any) -> None:
    end()


def _all() -> list[Thing]:
    refs = [*_things.valuerefs(), *_last_things.valuerefs()]
    return [thing for ref in refs if (thing := ref()) is not None]


def _look_after(thing: Thing) -> bool:
    """Whether it needs another call; one that fails is to be tried again."""
    if _ended is fork.process:
        return False
    return thing.tasks.run(f"looking after {thing.name}", thing.every_second) is not False


def _every_second() -> bool:
    needed = [_look_after(thing) for thing in _all() if thing not in _housekeepers]
    return any(needed)


def _housekeeper_of(thing: Thing) -> Housekeeper:
    ref = weakref.ref(thing)

    def work() -> bool:
        found = ref()
        return found is not None and _look_after(found)

    return Housekeeper(work)


_housekeeper = Housekeeper(_every_second)


def _after_fork() -> None:
    global _housekeeper
    _housekeeper = Housekeeper(_every_second)
    for thing in _all():
        if thing in _housekeepers:
            _housekeepers[thing] = _housekeeper_of(thing)
    # Should one fail, nothing here may be used that is the parent's: it is tried again before the next use.
    for thing in _all():
        thing.forked()


fork.in_child(_after_fork)
atexit.register(end)
