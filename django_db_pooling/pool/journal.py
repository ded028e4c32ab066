"""The log of a pool, and its latest errors.

A handler of logging may write, take locks and switch greenlets. Some events happen where it must not: in
finalizers, in gevent's hub, while connections are handed out. So an event is noted, which is an ``append``,
and written by the housekeeper, about a second later; one that repeats, every ten seconds at most.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from typing import Any, NamedTuple

from django_db_pooling.log import extra, logger, redact
from django_db_pooling.pool.stats import Trouble
from django_db_pooling.process.observers import observers

# Seconds in which an event of one pool is written once; those between are counted.
QUIET = 10.0
MAX_NOTES = 1000
MAX_TROUBLES = 20


class Event(NamedTuple):
    """``text``: filled with the fields. ``is_limited``: it may come in storms."""

    level: int
    text: str
    is_limited: bool = False


EVENTS = {
    "created": Event(logging.INFO, "pool created: size %(size)s, max_outstanding %(max_outstanding)s"),
    "resized": Event(logging.INFO, "limits changed: size %(size)s, max_outstanding %(max_outstanding)s"),
    "retired": Event(logging.INFO, "settings changed: connections opened with the old ones are closed"),
    "recycled": Event(logging.INFO, "recycled: every connection is replaced when it is returned"),
    "paused": Event(logging.WARNING, "paused for %(seconds).0f s: callers wait"),
    "resumed": Event(logging.WARNING, "resumed after a pause of %(seconds).1f s"),
    "ordered": Event(logging.INFO, "%(action)s, requested by %(by)s"),
    "moved": Event(logging.WARNING, "HOST leads elsewhere, every connection is replaced: %(reason)s"),
    "opened": Event(logging.DEBUG, "connection %(connection)d opened in %(seconds).3f s"),
    "closed": Event(logging.DEBUG, "connection %(connection)d closed after %(seconds).1f s: %(reason)s"),
    "close_failed": Event(logging.DEBUG, "closing a connection failed: %(error)s"),
    "drop_failed": Event(logging.ERROR, "dropping a connection failed: %(error)s", True),
    "timeout": Event(logging.WARNING, "checkout of %(request)s failed: %(error)s %(remedy)s", True),
    "slow": Event(
        logging.WARNING,
        "slow checkout of %(request)s: %(seconds).1f s, in the queue %(queue_seconds).1f s, connecting "
        "%(connect_seconds).1f s, checking an idle connection %(check_seconds).1f s; meanwhile %(in_use)d in "
        "use, %(waiting)d waiting, max_outstanding %(max_outstanding)s, held longest: %(holders)s.%(limits)s",
        True,
    ),
    "connect": Event(logging.ERROR, "connecting fails: %(error)s", True),
    "connect_again": Event(logging.WARNING, "connecting works again, after %(seconds).1f s", True),
    "full": Event(
        logging.WARNING,
        "the server takes no more connections: %(open)d open of %(allowed)s allowed: %(error)s",
        True,
    ),
    "host_limit": Event(
        logging.WARNING,
        "another process has the lower HOST_LIMIT %(limit)d, which counts for this one, too (here: %(own)d)",
    ),
    "host_limit_failed": Event(logging.ERROR, "HOST_LIMIT can't be looked after: %(error)s", True),
    "min_size": Event(logging.INFO, "can't open a connection for MIN_SIZE: %(error)s", True),
    "dead": Event(logging.INFO, "idle connection found broken", True),
    "lost": Event(logging.WARNING, "connection lost during a statement of %(request)s: %(error)s", True),
    "not_ended": Event(
        logging.WARNING, "a statement that was given up may go on at the server: %(error)s", True
    ),
    "rolled_back": Event(logging.WARNING, "transaction left open was rolled back: %(request)s", True),
    "rollback_failed": Event(logging.WARNING, "rolling back a transaction failed: %(error)s", True),
    "atomic_left_open": Event(
        logging.WARNING, "request ended inside atomic(), rolling back: %(request)s", True
    ),
    "session_ended": Event(
        logging.WARNING,
        "a session changed by %(holder)s was ended: its connection was needed elsewhere, or not used for "
        "long; to keep it, wrap the work in pooling.scope('request')",
        True,
    ),
    "wrong_server": Event(
        logging.WARNING,
        "the server is the wrong one, every connection is replaced when it is returned: %(error)s",
        True,
    ),
    "reset_failed": Event(logging.WARNING, "resetting a session failed: %(error)s", True),
    "reclaimed": Event(
        logging.WARNING, "connection reclaimed, its holder ended without returning it: %(request)s", True
    ),
    "held": Event(logging.WARNING, "connection held for %(seconds).1f s by %(holder)s"),
    "came_back": Event(logging.WARNING, "connection returned after %(seconds).1f s by %(holder)s"),
}

# Events that are not of one pool.
OTHERS = {
    "check": "a finding of the system checks",
    "housekeeping": "a housekeeping task failed or works again; the housekeeper can't start",
    "login": "a connection outside of the pool checks a login to the page of pools, or can't be opened",
    "status": "the status directory can't be used, or can be used again; a file in it is ignored",
}


class _Note(NamedTuple):
    event: str
    at: float
    fields: dict[str, Any]


class _Storm:
    """Notes of one event since it was written last."""

    __slots__ = ("count", "last", "written_at")

    def __init__(self) -> None:
        self.written_at = float("-inf")
        self.count = 0
        self.last: _Note | None = None


class Journal:
    """Notes of one pool. Fields are those of ``extra``, without the prefix."""

    def __init__(self, alias: str) -> None:
        self._alias = redact(alias)
        self._notes: deque[_Note] = deque(maxlen=MAX_NOTES)
        self._storms: dict[str, _Storm] = {}
        # The latest things that went wrong.
        self.troubles: deque[Trouble] = deque(maxlen=MAX_TROUBLES)
        # Asked now and by the housekeeper: logging itself takes a lock to answer.
        self.is_verbose = logger.isEnabledFor(logging.DEBUG)

    @property
    def is_pending(self) -> bool:
        """Whether there is something to write, now or later."""
        return bool(self._notes) or any(storm.count for storm in list(self._storms.values()))

    def note(self, event: str, **fields: Any) -> None:
        """Callable anywhere: no I/O, no lock, no switch."""
        try:
            if self.is_verbose or EVENTS[event].level > logging.DEBUG:
                self._notes.append(_Note(event, time.time(), fields))
        except Exception as error:
            observers.failed("noting for the log", error)

    def trouble(self, kind: str, error: object, is_logged: bool = True, **fields: Any) -> None:
        """Something has gone wrong; ``kind`` is an event. Callable anywhere, as ``note``."""
        text = redact(error)
        self.troubles.append(Trouble(time.monotonic(), kind, text))
        if is_logged:
            self.note(kind, error=text, **fields)

    def write(self, is_last: bool = False) -> None:
        """Called by the housekeeper. ``is_last``: nothing may wait for later."""
        self.is_verbose = logger.isEnabledFor(logging.DEBUG)
        while self._notes:
            try:
                note = self._notes.popleft()
            except IndexError:
                break
            if EVENTS[note.event].is_limited:
                storm = self._storms.setdefault(note.event, _Storm())
                storm.last, storm.count = note, storm.count + 1
                self._write_storm(storm, is_last)
            else:
                self._write(note)
        for storm in list(self._storms.values()):
            self._write_storm(storm, is_last)

    def _write_storm(self, storm: _Storm, is_last: bool) -> None:
        now = time.monotonic()
        if storm.last is not None and (is_last or now - storm.written_at >= QUIET):
            note, suppressed = storm.last, storm.count - 1
            storm.written_at, storm.count, storm.last = now, 0, None
            self._write(note, suppressed)

    def _write(self, note: _Note, suppressed: int = 0) -> None:
        level, text, _ = EVENTS[note.event]
        fields = {"alias": self._alias, **note.fields}
        text = "%(alias)s: " + text
        if suppressed:
            fields["suppressed"] = suppressed
            text += " (%(suppressed)d more like this)"
        # A filter of the site's may raise: what else is to be written, and done, is not lost.
        with contextlib.suppress(Exception):
            logger.log(level, text, fields, extra=extra(note.event, at=note.at, **fields))
