"""Thousands of timeouts and kills in one pool, in an order that its seed decides: it can be replayed.

``python -m tests.unit.storm SEED [HITS]`` tells how often each suspension point was hit.
"""

from __future__ import annotations

import hashlib
import logging
import random
import sys
from collections import Counter
from typing import Any
from unittest import mock

from django_db_pooling.pool import growth as growth_module
from django_db_pooling.pool import openings
from django_db_pooling.pool.limits import Limits
from tests.unit.actors import ORDERS, POINTS, Actor, Kill, Timeout
from tests.unit.fakes import PASSED
from tests.unit.fiber_driver import Fault
from tests.unit.fibers import Fiber, GreenFiber
from tests.unit.world import World

INTERRUPTIONS = (Timeout, Kill)
HUBS, IDENTITIES = 2, 2
# How many callers there are at most: sometimes nobody has to wait, sometimes many have to.
CROWDS = (2, 6, 20)
# It blows, so many steps at a time, until each point was hit so often by each kind of interruption.
ROUND, MOST_ROUNDS, LEAST_HITS = 5_000, 40, 3
# A point that was hit so often is not a rare one any more.
ENOUGH = 120
LIMITS: dict[str, Any] = {
    "size": 3,
    "min_size": 2,
    "max_age": 30.0,
    "idle_timeout": 20.0,
    "connect_retry": 1.0,
}
# What holders of connections do. A transaction that is left open ("begin"), or may be ("blur"), must
# be rolled back by somebody.
DEEDS = [*ORDERS, *["execute"] * 4, *["begin"] * 4, *["blur"] * 4, *["give back"] * 8]
# Where nothing is said to the server.
QUIET = ("waiting", "served", "turned away", "pausing", "holding")
# What happens next: its share of all events.
WEATHER = {
    "somebody_comes": 20,
    "the_crowd_changes": 0.5,
    "somebody_goes_on": 50,
    "all_go_on": 0.2,
    "somebody_is_interrupted": 4,
    "somebody_is_interrupted_at_a_rare_point": 20,
    "the_network_fails": 1,
    "a_connection_dies": 2,
    "the_server_goes": 0.3,
    "the_server_returns": 1,
    "time_passes": 4,
    "the_pool_is_looked_after": 3,
    "the_pool_changes": 1,
    "garbage_is_collected": 2,
}


class Storm:
    def __init__(self, seed: int, kind: type[Fiber] = GreenFiber) -> None:
        self.luck = random.Random(seed)
        self.world = World(kind, HUBS, IDENTITIES, max_outstanding=5, **LIMITS)
        self.crowd = max(CROWDS)
        # (suspension point, kind of interruption) -> how often.
        self.hits: Counter[tuple[str, type[BaseException]]] = Counter(
            {(point, kind): 0 for point in POINTS for kind in INTERRUPTIONS}
        )

    def run(self, least_hits: int = LEAST_HITS) -> Storm:
        # The pool's own dice are the storm's.
        with (
            mock.patch.object(openings, "random", self.luck),
            mock.patch.object(growth_module, "random", self.luck),
        ):
            try:
                for _ in range(MOST_ROUNDS):
                    for event in self.luck.choices([*WEATHER], [*WEATHER.values()], k=ROUND):
                        getattr(self, event)()
                    if min(self.hits.values()) >= least_hits:
                        break
                self.world.run_to_the_end()
                self.world.nothing_is_lost()
            finally:
                self.world.close()
        return self

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.world.journal).encode()).hexdigest()

    def table(self) -> str:
        lines = [f"{'':30}{'timeouts':>10}{'kills':>10}"]
        for point in POINTS:
            lines.append(f"{point:30}" + "".join(f"{self.hits[point, kind]:10}" for kind in INTERRUPTIONS))
        stats = self.world.pool.snapshot()
        lines.append(f"{stats.checkouts} checkouts, {stats.opened} opened, {stats.timeouts} refused")
        lines.append(f"{len(self.world.journal)} events, digest {self.digest}")
        return "\n".join(lines)

    # -- weather ------------------------------------------------------------------------------

    def somebody_comes(self) -> None:
        if len(self.world.actors) < self.crowd:
            now = self.world.clock.now
            deadline = self.luck.choice([None, None, PASSED, now + 0.01, now + 0.6])
            gives_up = self.luck.random() < 0.05
            reopens = self.luck.random() < 0.5
            details = {"deadline": deadline, "gives_up": gives_up, "reopens": reopens}
            self.world.start("caller", None, self.an_affinity(), **details)

    def the_crowd_changes(self) -> None:
        self.crowd = self.luck.choice(CROWDS)

    def somebody_goes_on(self) -> None:
        actor = self.one_of([actor for actor in self.world.actors if actor.is_due])
        if actor is not None:
            actor.order = self.luck.choice(DEEDS)
            self.world.step(actor)

    def all_go_on(self) -> None:
        self.world.run_until_all_sleep()

    def somebody_is_interrupted(self) -> None:
        actor = self.one_of(self.world.actors)
        if actor is not None:
            self.interrupt(actor, self.luck.choice(INTERRUPTIONS))

    def somebody_is_interrupted_at_a_rare_point(self) -> None:
        """Chance alone would hit those that are passed quickly too seldom."""
        chances = [(actor, kind) for actor in self.world.actors for kind in INTERRUPTIONS]
        if chances:
            actor, kind = min(chances, key=lambda chance: self.hits[chance[0].where, chance[1]])
            if self.hits[actor.where, kind] < ENOUGH:
                self.interrupt(actor, kind)

    def interrupt(self, actor: Actor, kind: type[BaseException]) -> None:
        self.hits[actor.where, kind] += 1
        self.world.step(actor, kind())

    def the_network_fails(self) -> None:
        actor = self.one_of([a for a in self.world.actors if a.where not in QUIET])
        if actor is not None:
            self.world.step(actor, Fault())

    def a_connection_dies(self) -> None:
        connection = self.one_of(self.world.pool.connections())
        if connection is not None:
            connection.is_dead = self.luck.random() < 0.8
            connection.looks = self.luck.choice([False, None]) if connection.is_dead else None

    def the_server_goes(self) -> None:
        self.world.lose_server(connections_die=self.luck.random() < 0.5)

    def the_server_returns(self) -> None:
        self.world.is_away = False

    def time_passes(self) -> None:
        self.world.pass_time(self.luck.choice([0.001, 0.01, 0.1, 0.6, 2.0]))

    def the_pool_is_looked_after(self) -> None:
        self.world.start("housekeeper", self.luck.choice(["maintain", "fill"]), self.an_affinity())

    def the_pool_changes(self) -> None:
        what = self.luck.choice(["recycle", "forget", "resize"])
        if what != "resize":
            self.world.start("operator", what, self.an_affinity())
        else:
            limits = Limits(max_outstanding=self.luck.randint(2, 6), **LIMITS)
            self.world.start("operator", "resize", self.an_affinity(), limits=limits)

    def garbage_is_collected(self) -> None:
        self.world.collect_garbage()

    # -- dice ---------------------------------------------------------------------------------

    def an_affinity(self) -> int:
        return self.luck.randrange(HUBS * IDENTITIES)

    def one_of(self, things: list[Any]) -> Any:
        return self.luck.choice(things) if things else None


if __name__ == "__main__":
    logging.disable()
    print(Storm(int(sys.argv[1])).run(*map(int, sys.argv[2:])).table())
