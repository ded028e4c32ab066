"""By attack: many requests at once change their sessions in every way, and none sees another's."""

from __future__ import annotations

import itertools
import random
import threading
import time
from typing import Any

import pytest
from django.db import Error, transaction

from django_db_pooling import pooling
from tests import ways
from tests.behaviour.conftest import (
    GEVENT,
    SERVER,
    another_alias,
    assert_whole,
    eventually,
    request_finished,
    request_started,
    sql,
)

pytestmark = [pytest.mark.transaction_scope, pytest.mark.never("sqlite3")]

CALLERS = 25
REQUESTS = 20
WAYS = ways.WAYS[SERVER or "postgresql"]


class Killed(BaseException):
    """As gevent.Timeout, which is no Exception either."""


class Attack:
    def __init__(self, alias: str, kills: bool) -> None:
        self.alias = alias
        self.kills = kills
        self.numbers = itertools.count(1)
        self.crossings: list[Any] = []
        self.finished = self.killed = 0

    def look(self, text: str, mine: str) -> Any:
        return ways.look(lambda statement: sql(statement, using=self.alias)[0][0], text, mine)

    def fresh(self) -> dict[str, Any]:
        with pooling.scope():
            return {way.at_first: self.look(way.at_first, "nobody") for way in WAYS}

    def request(self, luck: random.Random, baseline: dict[str, Any]) -> None:
        mine = f"mine {next(self.numbers)}"
        for way in luck.sample(WAYS, 3):
            found, expected = self.look(way.at_first, mine), baseline[way.at_first]
            if found != expected:
                self.crossings.append((mine, way.at_first, found, expected))
        way = luck.choice(WAYS)
        for statement in way.change:
            sql(statement.format(mine), using=self.alias)
        told = self.look(way.look, mine)
        time.sleep(0.002 * luck.random())
        if self.look(way.look, mine) != told or not way.is_own(told, mine):
            self.crossings.append((mine, way.look, told, "its own"))
        if luck.random() < 0.2 and way.can_be_in_a_block:
            with transaction.atomic(using=self.alias):
                sql("SELECT 1", using=self.alias)

    def caller(self, seed: int, baseline: dict[str, Any]) -> None:
        luck = random.Random(seed)
        for _ in range(REQUESTS):
            request_started()
            try:
                with self.time_limit(luck):
                    self.request(luck, baseline)
                self.finished += 1
            except Killed:
                self.killed += 1
            except Error as error:
                # A statement after a connection that was lost to a kill, and nothing else.
                if not self.kills:
                    self.crossings.append(repr(error))
            finally:
                request_finished()

    def time_limit(self, luck: random.Random) -> Any:
        if not self.kills:
            return pooling.scope()
        import gevent

        return gevent.Timeout(luck.choice([None, 0.001, 0.005, 0.02, 0.05]), Killed)


@pytest.mark.parametrize("kills", [False, *([True] if GEVENT else [])])
@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_nobody_sees_what_others_have_done_to_their_sessions(scope: str, kills: bool) -> None:
    pool = {"SCOPE": scope, "SIZE": 4, "MAX_OUTSTANDING": 4, "TIMEOUT": 60}
    with another_alias(POOL=pool) as alias:
        attack = Attack(alias, kills)
        baseline = attack.fresh()
        threads = [threading.Thread(target=attack.caller, args=(seed, baseline)) for seed in range(CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert attack.crossings == []
        assert attack.finished + attack.killed <= CALLERS * REQUESTS
        assert attack.finished > CALLERS
        if kills:
            assert attack.killed > CALLERS
        eventually(lambda: pooling.stats(alias).in_use == 0)
        assert attack.fresh() == baseline
        assert_whole(alias)
