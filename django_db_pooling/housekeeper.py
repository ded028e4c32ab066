"""The thread that looks after pools while nobody asks for a connection."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable

from django_db_pooling import green
from django_db_pooling.journal import brief, extra, logger

TICK = 1.0  # seconds


class Housekeeper:
    """Calls ``work`` every second until it returns False: there is nothing to look after.

    A plain daemon thread, so a greenlet where gevent has patched threading. When that happens later, the
    native thread rests and a greenlet takes its place: what is opened in a native thread is of no use to
    the others. ``ensure_running`` costs little while it runs. After a fork a new Housekeeper is needed.
    """

    def __init__(self, work: Callable[[], bool]) -> None:
        self._work = work
        self._running = False
        # Whether what runs, or ran last, is a greenlet.
        self._is_greenlet = False
        self._pid = os.getpid()

    def ensure_running(self) -> None:
        is_greenlet = green.patched("threading")
        if self._running and self._is_greenlet is is_greenlet:
            return
        self._running, self._is_greenlet = True, is_greenlet
        try:
            threading.Thread(
                target=self._run, args=(is_greenlet,), name="django_db_pooling housekeeper", daemon=True
            ).start()
        except RuntimeError as error:
            # No more threads, or the interpreter is ending. Nobody's query depends on housekeeping.
            self._running = False
            logger.error(
                "The housekeeper can't start: %s", error, extra=extra("housekeeping", error=brief(error))
            )
        except BaseException:
            self._running = False
            raise

    def _run(self, is_greenlet: bool) -> None:
        try:
            self._work_until_done(is_greenlet)
        except BaseException:
            # A greenlet that was killed with all others, for example.
            self._running = False
            raise

    def _work_until_done(self, is_greenlet: bool) -> None:
        while True:
            time.sleep(TICK)
            if os.getpid() != self._pid:
                # gevent's greenlets live on in a forked child, where threading has forgotten them and
                # would raise at their end.
                threading.Event().wait()
            if green.patched("threading") is not is_greenlet:
                # threading has forgotten this one, too.
                _rest_for_good()
            if self._has_more_work():
                continue
            # Gone before it looks a last time: who has something new either sees that, or is seen.
            self._running = False
            if not self._has_more_work() or self._running:
                return
            self._running = True

    def _has_more_work(self) -> bool:
        try:
            return self._work()
        except Exception as error:
            # Where it was, and of the error only what may be told.
            where = "".join(traceback.format_tb(error.__traceback__))
            words = "Looking after the pools failed, trying again: %s\n%s"
            logger.error(words, brief(error), where, extra=extra("housekeeping", error=brief(error)))
            return True


def _rest_for_good() -> None:
    """In a native thread, whether gevent has patched or not."""
    silence = green.original("_thread", "allocate_lock")()
    silence.acquire()
    silence.acquire()
