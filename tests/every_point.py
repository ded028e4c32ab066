"""An exception at each point, one after the other, at which a signal's handler could raise it."""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tests.strikes import Struck

# The interpreter looks for signals where a function begins, after a call, and where a loop goes round.
_LOOKS_AFTER = ("CALL", "JUMP_BACKWARD", "JUMP_ABSOLUTE")


# What is between a wrapper and its pool.
BACKEND = "/django_db_pooling/backend/"


class Points:
    """Of this code, in this thread."""

    def __init__(self, folder: str = BACKEND) -> None:
        self.folder = folder
        self.passed = 0
        self.is_over = False

    @contextmanager
    def strike(self, number: int) -> Iterator[None]:
        """Raise Struck in the block, at the point of this number; ``is_over`` where there are fewer."""
        self.passed, before = 0, sys.gettrace()
        place = ""

        def point(frame: FrameType) -> None:
            nonlocal place
            self.passed += 1
            if self.passed == number:
                place = f"{frame.f_code.co_name}:{frame.f_lineno}"
                raise Struck(place)

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if self.folder not in frame.f_code.co_filename:
                return None
            frame.f_trace_opcodes = True
            names = _names(frame.f_code)
            last = ""

            def inside(frame: FrameType, event: str, argument: Any) -> Any:
                nonlocal last
                if event == "opcode":
                    name = names.get(frame.f_lasti, "")
                    previous, last = last, name
                    if previous.startswith(_LOOKS_AFTER):
                        point(frame)
                return inside

            point(frame)
            return inside

        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before)
            self.is_over = self.passed < number


_cache: dict[Any, dict[int, str]] = {}


def _names(code: Any) -> dict[int, str]:
    if code not in _cache:
        _cache[code] = {each.offset: each.opname for each in dis.get_instructions(code)}
    return _cache[code]
