"""Who holds a connection: the request or thread, and the line of code where it was checked out."""

from __future__ import annotations

import threading
from types import FrameType
from typing import Any

from django_db_pooling.log import redact, safe_label
from django_db_pooling.process.observers import observers

OUTSIDE = "code outside of a request"


class Holder:
    """Names the thread that holds a connection, and its request. ``owner``: a weak reference to what holds
    it there.
    """

    __slots__ = ("ident", "owner")

    def __init__(self, owner: Any) -> None:
        # Known once it holds something.
        self.ident: int | None = None
        self.owner = owner

    @property
    def request(self) -> str | None:
        return None

    def __str__(self) -> str:
        who = self.request or OUTSIDE
        name = next((t.name for t in threading.enumerate() if t.ident == self.ident), "")
        # gevent's greenlets, and threads that others have started, have numbers that nobody knows.
        is_telling = name and not name.startswith("Dummy-")
        return f"{who} in thread {safe_label(name)}" if is_telling else who


class Holding:
    """A holder, and where it checked out: the innermost line of code that is not Django's or ours."""

    __slots__ = ("_file", "_holder", "_line")

    def __init__(self, holder: object, frame: FrameType) -> None:
        self._holder = holder
        try:
            caller = _caller(frame) or frame
        except Exception as error:
            observers.failed("looking for a caller", error)
            caller = frame
        # No reference to the frame, whose variables would live on.
        self._file, self._line = caller.f_code.co_filename, caller.f_lineno

    @property
    def owner(self) -> object:
        return getattr(self._holder, "owner", None)

    @property
    def request(self) -> object:
        return getattr(self._holder, "request", None)

    def __str__(self) -> str:
        return f"{self._holder}, taken at {safe_label(self._file)}:{self._line}"


def request_label(holder: object) -> str:
    """The request of a holder, if it has one. Not str() of it, which may take a lock."""
    return redact(getattr(holder, "request", None) or OUTSIDE)


def _caller(frame: FrameType | None) -> FrameType | None:
    while frame is not None and _is_library(frame):
        frame = frame.f_back
    return frame


def _is_library(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    # contextlib: django.db.transaction.atomic as a decorator.
    return package in ("django", "django_db_pooling", "contextlib")
