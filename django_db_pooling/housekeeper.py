"""The thread that looks after pools while nobody asks for a connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from django_db_pooling import fork
from django_db_pooling.duties import Duties
from django_db_pooling.journal import brief, extra, logger

TICK = 1.0  # seconds


class Housekeeper:
    """Calls ``work`` every second until it returns False: there is nothing to look after.

    A plain daemon thread, so a greenlet where gevent has patched threading. ``ensure_running``
    costs two attribute reads while it runs. After a fork a new Housekeeper is needed. In uWSGI's master it
    does nothing: that must have no threads, and once its workers are there it uses no connection.
    """

    def __init__(self, work: Callable[[], bool]) -> None:
        self._work = work
        self._running = False
        self._process = fork.process
        self._duties = Duties()

    def ensure_running(self) -> None:
        if self._running or fork.forks_silently():
            return
        self._running = True
        try:
            threading.Thread(target=self._run, name="django_db_pooling housekeeper", daemon=True).start()
        except RuntimeError as error:
            # No more threads, or the interpreter is ending. Nobody's query depends on housekeeping.
            self._running = False
            logger.error(
                "The housekeeper can't start: %s", error, extra=extra("housekeeping", error=brief(error))
            )
        except BaseException:
            self._running = False
            raise

    def _run(self) -> None:
        try:
            self._work_until_done()
        except BaseException:
            # A greenlet that was killed with all others, for example.
            self._running = False
            raise

    def _work_until_done(self) -> None:
        while True:
            time.sleep(TICK)
            if not fork.is_own(self._process):
                # gevent's greenlets live on in a forked child, where threading has forgotten them and
                # would raise at their end.
                threading.Event().wait()
            if self._has_more_work():
                continue
            # Gone before it looks a last time: who has something new either sees that, or is seen.
            self._running = False
            if not self._has_more_work() or self._running:
                return
            self._running = True

    def _has_more_work(self) -> bool:
        return self._duties.do("looking after the pools", self._work) is not False
