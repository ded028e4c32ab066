"""A thread that calls a function each second."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from django_db_pooling.log import extra, logger, redact
from django_db_pooling.process import fork, green
from django_db_pooling.process.tasks import Tasks

TICK = 1.0  # seconds


class Housekeeper:
    """Calls ``work`` every second until it returns False: there is nothing to look after.

    A plain daemon thread, so a greenlet where gevent has patched threading. When that happens later, the
    native thread sleeps for good and a greenlet takes its place: a connection that is opened in a native
    thread can't be used in the others. A greenlet ends with its native thread, and can't use what other hubs
    have opened: then another takes its place, and that of the main thread's hub does wherever it is asked
    for there. ``ensure_running`` costs little while it runs. After a fork a new Housekeeper is needed. In
    uWSGI's master it does nothing: that must have no threads, and once its workers are there it uses no
    connection.
    """

    def __init__(self, work: Callable[[], bool]) -> None:
        self._work = work
        self._running = False
        # The hub of what runs, or ran last; None: a native thread.
        self._hub: Any = None
        self._process = fork.process
        self._tasks = Tasks()

    def ensure_running(self) -> None:
        if (self._running and not self._has_to_move()) or fork.forks_silently():
            return
        hub = green.hub_of_threads()
        self._running, self._hub = True, hub
        try:
            threading.Thread(
                target=self._run, args=(hub,), name="django_db_pooling housekeeper", daemon=True
            ).start()
        except RuntimeError as error:
            # No more threads, or the interpreter is ending. No query depends on housekeeping.
            self._running = False
            redacted = redact(error)
            # A filter of the site's may raise.
            with contextlib.suppress(Exception):
                logger.error(
                    "The housekeeper can't start: %s", redacted, extra=extra("housekeeping", error=redacted)
                )
        except BaseException:
            self._running = False
            raise

    def _has_to_move(self) -> bool:
        """To the hub in which it is asked for, now that what runs is of no use, or of less use."""
        if self._hub is None:
            return green.patched("threading")
        return green.has_ended(self._hub) or not self._hub.main_hub and green.hub_of_this_thread().main_hub

    def _run(self, hub: Any) -> None:
        try:
            self._work_until_done(hub)
        except BaseException:
            # A greenlet that was killed with all others, for example.
            if self._hub is hub:
                self._running = False
            raise

    def _work_until_done(self, hub: Any) -> None:
        while True:
            time.sleep(TICK)
            if not fork.is_own(self._process):
                # In a forked child gevent's greenlets live on, but threading doesn't know them any more and
                # would raise at their end.
                threading.Event().wait()
            if hub is None and green.patched("threading"):
                # threading doesn't know this one any more, either.
                _sleep_for_good()
            if self._hub is not hub:
                return
            # Another one may have taken its place meanwhile: it is that one's to say what runs.
            if self._has_more_work() or self._hub is not hub:
                continue
            # It says that it is gone before it looks a last time: new work either finds that, or is found.
            self._running = False
            if not self._has_more_work() or self._running:
                return
            self._running = True

    def _has_more_work(self) -> bool:
        return self._tasks.run("housekeeping", self._work) is not False


def _sleep_for_good() -> None:
    """In a native thread, whether gevent has patched or not."""
    lock = green.original("_thread", "allocate_lock")()
    lock.acquire()
    lock.acquire()
