"""A storm of timeouts and kills: 50 greenlets on 4 connections are interrupted wherever they are suspended.

``POOLING_STORM=10000`` makes it so many interruptions. ``-s`` shows how often each point was hit.
"""

from __future__ import annotations

import gc
import itertools
import math
import os
import random
import time
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from types import CodeType
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.backends.utils import CursorWrapper
from django.db.models import Value

from django_db_pooling import pooling
from django_db_pooling.backend import checkin, errors, opening
from django_db_pooling.drivers.base import passed_through
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.pool.queue import Queue
from django_db_pooling.pool.slots import Slots
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    BEGIN,
    MYSQL,
    another_alias,
    committed,
    eventually,
    request_finished,
    request_started,
    sql,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import DRIVER, Observer
from tests.behaviour.test_interrupts import assert_whole_again
from tests.behaviour.test_session import receiving

# psycopg warns of each named cursor that was never closed, Python of generators interrupted at their end.
pytestmark = [
    pytest.mark.only("gevent"),
    pytest.mark.never("sqlite3"),
    pytest.mark.never("mysqlclient"),
    pytest.mark.never("psycopg2"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.transaction_scope,
    pytest.mark.timeout(1800),
]

CALLERS, CONNECTIONS = 50, 4
INTERRUPTIONS = int(os.environ.get("POOLING_STORM", "200"))
# A storm that hasn't hit everything by then has failed (seconds), and so have requests that don't end.
LONGEST, LAST_REQUESTS = 60 + INTERRUPTIONS / 10, 60.0
ROWS = 3
SHARED = "for all to read"
# Where it can be suspended, by functions that it is inside of. The first that applies is the point.
POINTS: dict[str, list[Any]] = {
    "closing": [Slots.close],
    "resetting": [checkin.reset_session],
    "checking": [errors.is_usable],
    "connecting": [opening.open_once],
    "waiting": [Queue.wait],
    "committing": [BaseDatabaseWrapper._commit],
    "rolling back": [BaseDatabaseWrapper._rollback, checkin.roll_back],
    "fetching": [],
    "executing": [CursorWrapper._execute],
    "setting autocommit": [BaseDatabaseWrapper.set_autocommit],
}
if DRIVER == "pymysql":
    from pymysql.cursors import SSCursor

    POINTS["fetching"] = [SSCursor.fetchmany, SSCursor.close]
elif DRIVER == "psycopg":
    from psycopg import ServerCursor

    POINTS["fetching"] = [ServerCursor.fetchmany, ServerCursor.close]
    # Nothing is sent.
    del POINTS["setting autocommit"]
OF_CODE = {function.__code__: point for point, functions in POINTS.items() for function in functions}
ELSEWHERE = "elsewhere"

SET, LOOK = (
    ("SET @mine = %s", "SELECT @mine")
    if MYSQL
    else ("SELECT set_config('my.own', %s, false)", "SELECT current_setting('my.own', true)")
)
NAP = "SELECT %s, SLEEP(0.002)" if MYSQL else "SELECT %s, pg_sleep(0.002)"
# It comes in many pieces.
MUCH = (
    "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 3) "
    "SELECT %s, REPEAT('x', 40000), SLEEP(0.0005) FROM n"
)
OPEN_TRANSACTIONS = (
    "SELECT count(*) FROM information_schema.innodb_trx"
    if MYSQL
    else "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND xact_start IS NOT NULL"
)


class Backout(Exception):
    """A request changes its mind."""


def point_of(codes: Iterable[CodeType]) -> str:
    points = {OF_CODE[code] for code in codes if code in OF_CODE}
    return next((point for point in POINTS if point in points), ELSEWHERE)


def stack(frame: Any) -> Iterator[CodeType]:
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that it took the place of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class Storm:
    def __init__(self, alias: str, seed: int) -> None:
        import gevent

        self.alias = alias
        self.seed = seed
        self.kinds: tuple[type[BaseException], ...] = (gevent.Timeout, gevent.GreenletExit)
        self.hits: Counter[tuple[str, type[BaseException]]] = Counter(
            {(point, kind): 0 for point in POINTS for kind in self.kinds}
        )
        # Greenlet -> what was thrown into it and has not come out yet.
        self.thrown: weakref.WeakKeyDictionary[Any, list[BaseException]] = weakref.WeakKeyDictionary()
        # Interruptions that never came out, and as what else some did.
        self.swallowed: list[BaseException] = []
        self.replaced: Counter[str] = Counter()
        self.faults: list[str] = []
        self.finished = self.refused = 0
        # Token -> how many rows with it there may be in the end.
        self.expected: dict[str, set[int]] = {}
        self.numbers = itertools.count(1)
        self.end = time.monotonic() + LONGEST

    @property
    def is_over(self) -> bool:
        enough = self.hits.total() >= INTERRUPTIONS and min(self.hits.values()) > 0
        return enough or time.monotonic() > self.end

    # -- requests -----------------------------------------------------------------------------

    def caller(self, number: int) -> None:
        luck = random.Random(f"{self.seed} {number}")
        while not self.is_over:
            try:
                self.request(luck)
                self.finished += 1
                self.swallowed += self.struck()
            except BaseException as error:
                self.judge(error)
                if isinstance(error, self.kinds[1]):
                    return

    def request(self, luck: random.Random) -> None:
        request_started()
        says_so = True
        try:
            for deed in luck.sample([self.read, self.write, self.nap, self.change, self.fetch], 2):
                self.within_a_time_limit(luck, deed)
            luck.choice([self.read, self.read, self.leave_by_hand, self.leave_by_text])(luck)
        except self.kinds[1]:
            says_so = luck.random() < 0.5
            raise
        finally:
            if says_so:
                request_finished()

    def within_a_time_limit(self, luck: random.Random, deed: Callable[[random.Random], None]) -> None:
        """As code that gives up on a part of its request and goes on."""
        import gevent

        with gevent.Timeout(0.2 * luck.random() if luck.random() < 0.1 else None) as limit:
            try:
                deed(luck)
            except gevent.Timeout as timeout:
                if timeout is not limit:
                    raise
                self.judge(timeout)

    def judge(self, error: BaseException) -> None:
        """What has ended a request is an interruption, or what it led to, or a wait that was too long."""
        struck = self.struck(error)
        for one in struck:
            self.hits[point_of(passed_through(one)), type(one)] += 1
        if struck:
            if not isinstance(error, self.kinds):
                self.replaced[type(error).__name__] += 1
        elif isinstance(error, PoolTimeout):
            self.refused += 1
        else:
            self.faults.append("".join(traceback.format_exception(error)))
        for one in chain(error):
            # Its frames would keep alive what the request held.
            one.__traceback__ = None

    def struck(self, error: BaseException | None = None) -> list[BaseException]:
        """Interruptions that this greenlet has met since it was asked last: one may take another's place."""
        import gevent

        thrown = self.thrown.setdefault(gevent.getcurrent(), [])
        struck = [one for one in thrown if one.__traceback__ is not None]
        thrown[:] = [one for one in thrown if one.__traceback__ is None]
        timers = [one for one in chain(error) if isinstance(one, self.kinds) and one not in struck]
        return struck + timers

    def check(self, mine: str, found: list[Any], rows: int = 1) -> None:
        if len(found) != rows or any(row[0] != mine for row in found):
            self.faults.append(f"{mine} has read {found}")

    def token(self) -> str:
        return f"token {next(self.numbers)}"

    def read(self, luck: random.Random) -> None:
        mine = self.token()
        self.check(mine, sql("SELECT %s", mine, using=self.alias))

    def nap(self, luck: random.Random) -> None:
        mine = self.token()
        self.check(mine, sql(NAP, mine, using=self.alias))

    def add(self, mine: str) -> None:
        Note.objects.using(self.alias).create(text=mine)

    def write(self, luck: random.Random) -> None:
        mine = self.token()
        self.expected[mine] = {0}
        changes_its_mind = luck.random() < 0.4
        try:
            with transaction.atomic(using=self.alias):
                for _ in range(ROWS):
                    self.add(mine)
                own = Note.objects.using(self.alias).filter(text=mine).values_list("text")
                self.check(mine, list(own), ROWS)
                if changes_its_mind:
                    raise Backout
                # From here on nobody can know.
                self.expected[mine] = {0, ROWS}
        except Backout:
            return
        self.expected[mine] = {ROWS}

    def change(self, luck: random.Random) -> None:
        mine = self.token()
        before = sql(LOOK, using=self.alias)[0][0]
        if before:
            self.faults.append(f"{mine} has found what {before} has left")
        sql(SET, mine, using=self.alias)
        self.check(mine, sql(LOOK, using=self.alias))

    def fetch(self, luck: random.Random) -> None:
        mine, found = self.token(), []
        if MYSQL:
            with transaction.atomic(using=self.alias), connections[self.alias].cursor() as cursor:
                cursor.execute(MUCH, [mine])
                while rows := cursor.fetchmany(1):
                    found += rows
        else:
            notes = Note.objects.using(self.alias).filter(text=SHARED).annotate(mine=Value(mine))
            found += notes.values_list("mine").iterator(chunk_size=1)
        self.check(mine, found, ROWS)

    def leave_by_hand(self, luck: random.Random) -> None:
        mine = self.token()
        self.expected[mine] = {0}
        transaction.set_autocommit(False, using=self.alias)
        self.add(mine)

    def leave_by_text(self, luck: random.Random) -> None:
        mine = self.token()
        self.expected[mine] = {0}
        sql(BEGIN, using=self.alias)
        self.add(mine)

    # -- weather ------------------------------------------------------------------------------

    def blow(self) -> None:
        import gevent

        luck = random.Random(self.seed)
        callers = [gevent.spawn(self.caller, number) for number in range(CALLERS)]
        others: list[Any] = []
        numbers = itertools.count(CALLERS)
        while not self.is_over:
            gevent.sleep(0.002 * luck.random())
            if luck.random() < 0.05:
                others.append(gevent.spawn(pooling.recycle, self.alias))
            self.strike(luck, [one for one in callers if one.gr_frame is not None])
            callers = [one if not one.dead else gevent.spawn(self.caller, next(numbers)) for one in callers]
        for one in gevent.joinall(callers + others, timeout=LAST_REQUESTS):
            one.get()
        assert all(one.dead for one in callers + others), "a greenlet hangs"

    def strike(self, luck: random.Random, callers: list[Any]) -> None:
        """At a point that was hit seldom; now and then anybody, but not so many that none reaches its end."""
        seldom = self.hits.total() / len(self.hits) / 4
        chances = [(one, kind) for one in callers for kind in self.kinds]
        luck.shuffle(chances)
        if not chances:
            return
        victim, kind = min(chances, key=self.hits_where)
        if self.hits_where((victim, kind)) > seldom:
            if self.hits.total() > self.finished + CALLERS:
                return
            if luck.random() < 0.3:
                victim, kind = chances[0]
        error = kind()
        self.thrown.setdefault(victim, []).append(error)
        victim.kill(error, block=False)

    def hits_where(self, chance: tuple[Any, type[BaseException]]) -> float:
        victim, kind = chance
        return self.hits.get((point_of(stack(victim.gr_frame)), kind), math.inf)

    def table(self) -> str:
        lines = [f"{'':20}{'timeouts':>10}{'kills':>10}"]
        for point in [*POINTS, ELSEWHERE]:
            lines.append(f"{point:20}" + "".join(f"{self.hits[point, kind]:10}" for kind in self.kinds))
        told = (
            f"{self.finished} requests finished, {self.refused} refused, replaced by: {dict(self.replaced)}"
        )
        return "\n".join([*lines, told, str(pooling.stats(self.alias))])


@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_a_storm_of_timeouts_and_kills(scope: str, observer: Observer) -> None:
    pool = {"SCOPE": scope, "SIZE": CONNECTIONS, "MAX_OUTSTANDING": CONNECTIONS, "TIMEOUT": 2}
    with another_alias(POOL=pool, CONN_HEALTH_CHECKS=True) as alias:
        storm = Storm(alias, seed=1)
        Note.objects.using(alias).bulk_create([Note(text=SHARED) for _ in range(ROWS)])
        with receiving(connection_created, sometimes_unbuffered(random.Random(1))):
            storm.blow()
            print(storm.table())
            assert storm.faults == [], storm.faults[0]
            assert storm.swallowed == []
            assert min(storm.hits.values()) > 0, storm.table()
            gc.collect()
            assert_whole_again(observer, alias)
        eventually(lambda: observer.rows(OPEN_TRANSACTIONS.format(observer.name)) == [(0,)])
        eventually(lambda: observer.count() == pooling.stats(alias).idle)
        stats, [used] = pooling.stats(alias), registry.pools(alias)
        assert stats.opened - stats.closed == stats.idle == len(used.connections())
        assert stats.reclaimed == 0, "only the net has caught it"
        written = Counter(committed())
        torn = {mine: written[mine] for mine, most in storm.expected.items() if written[mine] not in most}
        assert torn == {}
        assert set(written) <= {SHARED, *storm.expected}


def sometimes_unbuffered(luck: random.Random) -> Callable[..., None]:
    """PyMySQL reads results at once, or, with cursors of this class, row by row: both are of interest."""

    def receiver(connection: Any, **kwargs: Any) -> None:
        if MYSQL and luck.random() < 0.5:
            connection.connection.cursorclass = SSCursor

    # As one of Django's own: with others no session is reset.
    receiver.__module__ = "django.tests"
    return receiver
