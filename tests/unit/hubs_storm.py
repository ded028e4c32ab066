"""Native threads and greenlets in one process that compete for one pool, each thread with a hub of its own.

``python -m tests.unit.hubs_storm SEED SECONDS``
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from django_db_pooling.process import green
from tests.unit import fakes
from tests.unit.green_storm import GreenDriver, GreenStorm, main
from tests.unit.live_storm import CALLERS

# In each native thread that has greenlets of its own.
CREW = 6


class Connection(fakes.Connection):
    """As one with gevent's socket: of use only in the hub that opened it."""

    def __init__(self, driver: fakes.FakeDriver, number: int) -> None:
        super().__init__(driver, number)
        self.hub = green.hub_of_this_thread()


class HubsDriver(GreenDriver):
    connection_class = Connection

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        # gevent's would switch to the hub, also in a finalizer; nothing that it guards switches.
        self._lock = green.original("_thread", "RLock")()
        self.strayed: list[str] = []

    def use(self, connection: Any) -> None:
        self.has_affinity(connection, "used")

    def close(self, connection: Any, close_wait: float) -> None:
        self.has_affinity(connection, "closed")
        super().close(connection, close_wait)

    def has_affinity(self, connection: Any, what: str) -> None:
        if connection.hub is not green.hub_of_this_thread():
            self.strayed.append(f"{connection} was {what} in another hub")


class HubsStorm(GreenStorm):
    driver_class = HubsDriver
    driver: HubsDriver

    def __init__(self, seed: int, seconds: float) -> None:
        super().__init__(seed, seconds)
        # Names of threads.
        self.served_in: set[str] = set()
        self.ended: list[None] = []

    def request(self, luck: random.Random, number: Any) -> None:
        super().request(luck, number)
        self.served_in.add(number.split()[0])

    def in_a_thread(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            self.faults.append(repr(error))
        finally:
            self.ended.append(None)

    def run(self) -> None:
        import gevent

        work: list[Callable[[], object]] = [
            lambda: self.crew("first", CREW),
            lambda: self.crew("second", CREW),
            # Threads that do nothing else: their hub runs while they wait.
            lambda: self.caller("third 1"),
            lambda: self.caller("fourth 1"),
        ]
        pool_of_threads = gevent.get_hub().threadpool
        start_new_thread = green.original("_thread", "start_new_thread")
        pool_of_threads.spawn(self.in_a_thread, work[0])
        pool_of_threads.spawn(self.in_a_thread, work[2])
        start_new_thread(self.in_a_thread, (work[1],))
        start_new_thread(self.in_a_thread, (work[3],))
        housekeeper = gevent.spawn(self.housekeeper)
        self.crew("main", CALLERS)
        self.all_end(lambda: not housekeeper.dead or len(self.ended) < len(work))
        self.check()

    def check(self) -> None:
        super().check()
        assert not self.driver.strayed, self.driver.strayed[:10]
        assert self.served_in == {"main", "first", "second", "third", "fourth"}, self.served_in


if __name__ == "__main__":
    main(HubsStorm)
