"""By attack: many requests at once change their sessions in every way, and none sees another's."""

from __future__ import annotations

import itertools
import random
import threading
import time
from typing import Any, NamedTuple

import pytest
from django.db import Error, connections, transaction

from django_db_pooling import pooling
from tests.behaviour.conftest import (
    GEVENT,
    MYSQL,
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
MISSING = "missing"


class Way(NamedTuple):
    """To change a session, and to see it. ``{}``: what is the request's own."""

    change: tuple[str, ...]
    look: str


WAYS = (
    [
        Way(("SET @mine = '{}'",), "SELECT @mine"),
        Way(("SELECT @other := '{}'",), "SELECT @other"),
        Way(("USE information_schema",), "SELECT DATABASE()"),
        Way(("CREATE TEMPORARY TABLE mine (a TEXT) SELECT '{}' AS a",), "SELECT a FROM mine"),
        Way(("DO GET_LOCK('{}', 0)",), "SELECT IS_USED_LOCK('{}') = CONNECTION_ID()"),
        Way(("SET time_zone = '+05:00'",), "SELECT @@time_zone"),
        Way(("SET NAMES latin1",), "SELECT @@character_set_client"),
        Way(("SET sql_mode = 'ANSI'",), "SELECT @@sql_mode"),
        Way(("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",), "SELECT @@tx_isolation"),
        Way(("SET autocommit = 0",), "SELECT @@autocommit"),
        Way(("PREPARE mine FROM 'SELECT ''{}'''",), "EXECUTE mine"),
        Way(("BEGIN NOT ATOMIC SET @called = '{}'; END",), "SELECT @called"),
    ]
    if MYSQL
    else [
        Way(("SET my.tenant = '{}'",), "SELECT current_setting('my.tenant')"),
        Way(("SELECT set_config('my.other', '{}', false)",), "SELECT current_setting('my.other')"),
        Way(("SET search_path TO pg_catalog",), "SHOW search_path"),
        Way(("SET ROLE pg_monitor",), "SELECT current_user"),
        Way(("CREATE TEMPORARY TABLE mine AS SELECT '{}' AS a",), "SELECT a FROM mine"),
        Way(
            ("SELECT pg_advisory_lock(hashtext('{}'))",),
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        ),
        Way(("SET TIME ZONE 'Asia/Tokyo'",), "SHOW TimeZone"),
        Way(("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",), "SHOW default_transaction_read_only"),
        Way(('LISTEN "{}"',), "SELECT min(c) FROM pg_listening_channels() AS c"),
        Way(("PREPARE mine AS SELECT '{}'::text",), "EXECUTE mine"),
        Way(("DO $$ BEGIN PERFORM set_config('my.third', '{}', false); END $$",), "SHOW my.third"),
    ]
)


class Killed(BaseException):
    """As gevent.Timeout, which is no Exception either."""


class Attack:
    def __init__(self, alias: str, kills: bool) -> None:
        self.alias = alias
        self.kills = kills
        self.numbers = itertools.count(1)
        self.crossings: list[Any] = []
        self.finished = self.killed = 0

    def look(self, way: Way, mine: str) -> Any:
        try:
            found = sql(way.look.format(mine), using=self.alias)[0][0]
        except Error as error:
            if connections[self.alias].in_atomic_block:
                raise
            text = str(error).lower()
            known = ("exist", "unrecognized", "unknown prepared")
            if not any(word in text for word in known):
                raise
            return MISSING
        # PostgreSQL remembers names of its users' settings, without their values.
        return MISSING if found in (None, "") else found

    def fresh(self) -> dict[str, Any]:
        with pooling.scope():
            return {way.look: self.look(way, "nobody") for way in WAYS}

    def request(self, luck: random.Random, baseline: dict[str, Any]) -> None:
        mine = f"mine {next(self.numbers)}"
        for way in luck.sample(WAYS, 3):
            found = self.look(way, mine)
            if found != baseline[way.look]:
                self.crossings.append((mine, way.look, found, baseline[way.look]))
        way = luck.choice(WAYS)
        for statement in way.change:
            sql(statement.format(mine), using=self.alias)
        told = self.look(way, mine)
        time.sleep(0.002 * luck.random())
        if self.look(way, mine) != told or ("{}" in way.change[0] and told not in (mine, 1)):
            self.crossings.append((mine, way.look, told, "its own"))
        if luck.random() < 0.2 and "autocommit" not in way.look:
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
