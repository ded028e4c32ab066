"""How long things took, in buckets."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

from django_db_pooling.process.observers import observers

# Upper bounds in seconds; one more bucket is for what took longer.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class Durations:
    """``buckets``: how many took up to each of ``BOUNDS``, and longer than the one before; the last: how many
    took longer than all of them. ``seconds``: what they took together.
    """

    buckets: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    seconds: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.buckets)

    def plus(self, other: Durations) -> Durations:
        together = zip(self.buckets, other.buckets, strict=True)
        return Durations(tuple(mine + theirs for mine, theirs in together), self.seconds + other.seconds)

    def minus(self, earlier: Durations) -> Durations:
        """Those that have come since ``earlier``."""
        together = zip(self.buckets, earlier.buckets, strict=True)
        # Threads count while others read.
        buckets = tuple(max(0, now - then) for now, then in together)
        return Durations(buckets, self.seconds - earlier.seconds)

    def quantile(self, share: float) -> float | None:
        """About how many seconds a share of them, from 0 to 1, took at most; None where there are none.

        As if durations were spread evenly over their bucket, but never more than they took together allows;
        where they took longer than all of ``BOUNDS``, the last of these.
        """
        wanted, seen, shorter = share * self.count, 0, 0.0
        if not self.count:
            return None
        for number, bound in enumerate(BOUNDS):
            count = self.buckets[number]
            least = BOUNDS[number - 1] if number else 0.0
            if count and seen + count >= wanted:
                below = max(0, math.ceil(wanted - seen) - 1)
                # All others took as long as this one, or longer.
                most = (self.seconds - shorter - below * least) / (self.count - seen - below)
                return min(least + (bound - least) * (wanted - seen) / count, max(least, most))
            seen, shorter = seen + count, shorter + count * least
        return BOUNDS[-1]


class Histogram:
    """Adds durations up."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def observe(self, seconds: float) -> None:
        try:
            self.buckets[bisect_left(BOUNDS, seconds)] += 1
            self.seconds += seconds
        except Exception as error:
            observers.failed("counting", error)

    def read(self, at_once: int = 0) -> Durations:
        """What there is. ``at_once``: of others that took no time."""
        return Durations((self.buckets[0] + at_once, *self.buckets[1:]), self.seconds)
