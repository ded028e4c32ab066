"""An exception at each point, one after the other, at which a signal's handler could raise it."""

from __future__ import annotations

import dis
import functools
import signal
import sys
import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
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
                handler(signal.SIGUSR1, frame)

        def handler(number: int, frame: FrameType | None) -> None:
            raise Struck(place)

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if self.folder not in frame.f_code.co_filename:
                return None
            frame.f_trace_opcodes = True
            looks = _looks(frame.f_code)
            last = -1

            def inside(frame: FrameType, event: str, argument: Any) -> Any:
                nonlocal last
                if event == "opcode":
                    previous, last = last, frame.f_lasti
                    if (previous, last) in looks:
                        point(frame)
                return inside

            point(frame)
            return inside

        # The package tells what a signal's handler raises from faults of its own.
        handled_before = None
        if threading.current_thread() is threading.main_thread():
            handled_before = signal.signal(signal.SIGUSR1, handler)
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before)
            if handled_before is not None:
                signal.signal(signal.SIGUSR1, handled_before)
            self.is_over = self.passed < number


@functools.cache
def _looks(code: CodeType) -> Container[tuple[int, int]]:
    """Instructions after which it looks for signals, each with the next one. Only where the same handler
    gets what is raised at either.
    """
    blocks = dis._parse_exception_table(code)  # type: ignore[attr-defined]

    def handler(offset: int) -> Any:
        return next((block.target for block in blocks if block.start <= offset < block.end), None)

    offsets = [each.offset for each in dis.get_instructions(code)]
    return {
        (each.offset, after)
        for each in dis.get_instructions(code)
        if each.opname.startswith(_LOOKS_AFTER)
        for after in offsets
        if handler(after) == handler(each.offset)
    }
