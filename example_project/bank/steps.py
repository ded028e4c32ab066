"""What a request did and how long each part took, for its page to show."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Steps:
    def __init__(self) -> None:
        self.done: list[tuple[str, float]] = []
        """Names and milliseconds, in order."""

    def timed(self, name: str, step: Callable[[], T]) -> T:
        began = time.perf_counter()
        result = step()
        self.done.append((name, (time.perf_counter() - began) * 1000))
        return result
