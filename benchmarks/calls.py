"""Counts function calls: a measure that doesn't depend on other load on the machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from types import CodeType, FrameType


class Count:
    """``python``: functions written in Python, ``package``: those of this package, ``c``: the others."""

    python = 0
    package = 0
    c = 0


@contextmanager
def counting() -> Iterator[Count]:
    """Calls in this thread or greenlet while the block runs, without the block's own end."""
    count = Count()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            count.python += 1
            count.package += is_of_package(frame.f_code)
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


def is_of_package(code: CodeType) -> bool:
    """Whether the function is one of the pool's, of whichever release the environment has."""
    return code.co_filename.startswith(_package())


@cache
def _package() -> tuple[str, ...]:
    """What the paths of its files begin with."""
    spec = find_spec("django_db_pooling")
    if spec is None or spec.submodule_search_locations is None:
        return ()
    return tuple(os.path.join(directory, "") for directory in spec.submodule_search_locations)
