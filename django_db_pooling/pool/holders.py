"""Who holds a connection, since which line of code, and which ones are held suspiciously long."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from types import FrameType

from django_db_pooling.log import redact, safe_label
from django_db_pooling.pool.journal import Journal
from django_db_pooling.pool.slots import Slot


class Holder:
    """Names the thread that holds a connection, and its request. ``owner``: what holds it there."""

    __slots__ = ("ident", "owner", "request")

    def __init__(self, owner: object) -> None:
        self.ident = threading.get_ident()
        self.owner = weakref.ref(owner)
        self.request: str | None = None

    def __str__(self) -> str:
        name = next((t.name for t in threading.enumerate() if t.ident == self.ident), str(self.ident))
        return f"{self.request or 'code outside of a request'} in thread {safe_label(name)}"


class Holding:
    """Who holds a connection, and where it was taken: the innermost line that is not Django's or ours."""

    __slots__ = ("_file", "_holder", "_line")

    def __init__(self, holder: object, frame: FrameType) -> None:
        self._holder = holder
        taker: FrameType | None = frame
        while taker is not None and _is_between(taker):
            taker = taker.f_back
        taker = taker or frame
        # No reference to the frame, whose variables would live on.
        self._file, self._line = taker.f_code.co_filename, taker.f_lineno

    @property
    def owner(self) -> object:
        return getattr(self._holder, "owner", None)

    @property
    def request(self) -> object:
        return getattr(self._holder, "request", None)

    def __str__(self) -> str:
        return f"{self._holder}, taken at {safe_label(self._file)}:{self._line}"


def request_label(holder: object) -> str:
    """The request of a holder, if it has one: str() of a holder may take a lock."""
    return redact(getattr(holder, "request", None) or "code outside of a request")


def _is_between(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    # contextlib: django.db.transaction.atomic as a decorator.
    return package in ("django", "django_db_pooling", "contextlib")


class Leaks:
    """Tells of connections that have been held for longer than a threshold, and when they come back."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def look(self, slots: Iterable[Slot], threshold: float | None, now: float) -> None:
        """The housekeeper's: each is told of once."""
        if threshold is None:
            return
        for slot in slots:
            taken_at = slot.taken_at
            if taken_at and now - taken_at > threshold and slot.overdue is None:
                slot.overdue = redact(slot.holder)
                if slot.taken_at != taken_at:
                    # It came back this instant.
                    slot.overdue = None
                    continue
                self._journal.note("held", seconds=now - taken_at, holder=slot.overdue)

    def came_back(self, slot: Slot, seconds: float) -> None:
        self._journal.note("came_back", seconds=seconds, holder=slot.overdue)
        slot.overdue = None
