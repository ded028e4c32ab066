"""Counts function calls: a measure that doesn't depend on other load on the machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Count:
    """``python``: functions written in Python, ``c``: those that are not."""

    python = 0
    c = 0


@contextmanager
def counting() -> Iterator[Count]:
    """Calls in this thread or greenlet while the block runs, without the block's own end."""
    count = Count()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            count.python += 1
        elif event == "c_call":
            count.c += 1

    sys.setprofile(note)
    try:
        yield count
    finally:
        sys.setprofile(None)
        # The end of the block: __exit__, next(), this generator, sys.setprofile.
        count.python -= 2
        count.c -= 2
