"""Many callers in a small pool, in gevent's greenlets: interrupted at every point where they are suspended.

``python -m tests.unit.green_storm SEED SECONDS`` tells how often each was hit.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

from django_db_pooling.drivers.base import Driver
from django_db_pooling.pool import slots
from django_db_pooling.process import wakeup
from tests.unit.fakes import SOON
from tests.unit.live_storm import CALLERS, Misfortune, Storm, StormyDriver

# Where greenlets are suspended.
POINTS = ("waiting", "connecting", "holding", "closing")


class TimedOut(Misfortune):
    """As ``gevent.Timeout``."""


class CountedSleepers:
    """Those among whom gevent's greenlets really sleep."""

    def __init__(self, driver: StormyDriver, sleepers: wakeup.Sleepers) -> None:
        self._at = driver.at
        self._sleepers = sleepers
        self.wake = sleepers.wake

    def sleep(self, sleeper: wakeup.Sleeper, seconds: float) -> None:
        with self._at("waiting"):
            self._sleepers.sleep(sleeper, seconds)


class GreenDriver(StormyDriver):
    def hub(self) -> object:
        return Driver().hub()


class GreenStorm(Storm):
    """Greenlets are interrupted by timeouts, and killed, at every point where they are suspended."""

    driver_class = GreenDriver

    def __init__(self, seed: int, seconds: float) -> None:
        from gevent import GreenletExit

        super().__init__(seed, seconds)
        self.kills = GreenletExit
        self.driver.at = self.at
        here = self.pool.queue.here
        self.pool.queue.here = lambda: CountedSleepers(self.driver, here())
        self.hits = {(point, kind): 0 for point in POINTS for kind in (TimedOut, GreenletExit)}
        self.points: dict[object, str] = {}
        self.give_up = self.end + SOON

    @property
    def is_over(self) -> bool:
        now = time.monotonic()
        return now >= self.end and (min(self.hits.values()) > 0 or now >= self.give_up)

    @contextlib.contextmanager
    def at(self, point: str) -> Iterator[None]:
        from gevent import getcurrent

        me = getcurrent()
        self.points[me] = point
        try:
            yield
        except (TimedOut, self.kills) as interruption:
            self.hits[point, type(interruption)] += 1
            raise
        finally:
            del self.points[me]

    def interruptions(self, luck: random.Random) -> Any:
        import gevent

        return gevent.Timeout(0.004 * luck.random() if luck.random() < 0.3 else None, TimedOut)

    def at_the_rarest_point(self, greenlets: list[Any], kind: type[BaseException]) -> Any:
        return min(greenlets, key=lambda one: self.hits.get((self.points.get(one, ""), kind), 1_000_000))

    def crew(self, name: str, callers: int) -> None:
        """Callers in the hub of this native thread; those at points that were hit seldom are interrupted."""
        import gevent

        numbers = (f"{name} {number}" for number in range(1_000_000))
        luck = random.Random(f"{self.seed} {name}")
        greenlets = [gevent.spawn(self.caller, next(numbers)) for _ in range(callers)]
        while not self.is_over:
            gevent.sleep(0.002)
            if luck.random() < 0.05:
                gc.collect()
            kind = luck.choice([TimedOut, self.kills])
            luck.shuffle(greenlets)
            self.at_the_rarest_point(greenlets, kind).kill(kind, block=False)
            greenlets = [g if not g.dead else gevent.spawn(self.caller, next(numbers)) for g in greenlets]
        self.all_end(lambda: sum(not greenlet.dead for greenlet in greenlets))

    def run(self) -> None:
        import gevent

        housekeeper = gevent.spawn(self.housekeeper)
        self.crew("main", CALLERS)
        self.all_end(lambda: not housekeeper.dead)
        self.check()

    def check(self) -> None:
        super().check()
        assert min(self.hits.values()) > 0, self.table()

    def table(self) -> str:
        return "\n".join(f"{point:12}{kind.__name__:14}{hits:6}" for (point, kind), hits in self.hits.items())


def main(storm: type[GreenStorm]) -> None:
    from gevent import monkey

    monkey.patch_all()
    logging.disable()
    slots.CLOSE_WAIT = 0.0
    wakeup.RECHECK_INTERVAL = 3600.0
    sys.setswitchinterval(1e-5)
    made = storm(int(sys.argv[1]), float(sys.argv[2]))
    made.run()
    print(made.table())


if __name__ == "__main__":
    main(GreenStorm)
