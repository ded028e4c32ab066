"""``POOL["PROXY"]``: behind a proxy that shares the server's connections, by transaction or by session."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from django.db import DatabaseError, connections, transaction
from django.db.transaction import TransactionManagementError

from django_db_pooling import capacity, pooling
from django_db_pooling.checks import check_capacity, check_pools
from tests.behaviour.conftest import (
    POSTGRESQL,
    another_alias,
    assert_whole,
    in_thread,
    in_threads,
    one,
    request,
    sql,
    token,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import Observer
from tests.conftest import require
from tests.doormen import MySQLDoorman
from tests.servers import PgBouncer

pytestmark = pytest.mark.transaction_scope

postgresql = pytest.mark.only("psycopg", "psycopg2")
both_modes = pytest.mark.parametrize("mode", ["transaction", "session"])
both_scopes = pytest.mark.parametrize("scope", ["request", "transaction"])

# Connections that PgBouncer has to the server.
SERVERS = 3
# Seconds for which PgBouncer lets a client wait for one of them.
WAIT = 1
LOCK = 4711


def start(**settings: object) -> PgBouncer:
    default = connections.settings["default"]
    return PgBouncer(
        int(default["PORT"]),
        default["NAME"],
        **{"default_pool_size": SERVERS, "query_wait_timeout": WAIT, **settings},
    )


@pytest.fixture
def proxy() -> Iterator[PgBouncer]:
    require(PgBouncer)
    with start() as proxy:
        yield proxy


@contextmanager
def behind(
    proxy: PgBouncer, mode: str, size: int = SERVERS, timeout: float = 5, scope: str = "request"
) -> Iterator[str]:
    """An alias whose connections go through it."""
    pool = {"PROXY": mode, "SCOPE": scope}
    disabled = mode == "transaction"
    with another_alias(
        PORT=str(proxy.port), NAME=mode, POOL=pool, DISABLE_SERVER_SIDE_CURSORS=disabled
    ) as alias:
        pooling.set_pool_size(size, max_outstanding=size, timeout=timeout, alias=alias)
        yield alias


@pytest.fixture
def shared(proxy: PgBouncer) -> Iterator[str]:
    """An alias behind a proxy that shares connections by transaction."""
    with behind(proxy, "transaction") as alias:
        yield alias


# -- load -----------------------------------------------------------------------------------------------


@postgresql
@both_scopes
@pytest.mark.parametrize(("mode", "most"), [("transaction", 8), ("session", SERVERS)])
def test_everybody_gets_his_own_answers(
    proxy: PgBouncer, observer: Observer, mode: str, most: int, scope: str
) -> None:
    """In transaction mode with more connections than PgBouncer has."""
    with behind(proxy, mode, size=most, scope=scope) as alias:

        def visit() -> None:
            token(alias)
            text = uuid4().hex
            with transaction.atomic(using=alias):
                Note.objects.using(alias).create(text=text)
                token(alias)
                assert Note.objects.using(alias).filter(text=text).count() == 1
            written.append(text)
            token(alias)

        def visits() -> None:
            for _ in range(5):
                request(visit)

        written: list[str] = []
        in_threads([visits] * 20)
        assert sorted(note.text for note in Note.objects.using(alias).all()) == sorted(written)
        assert len(written) == 100
        assert pooling.stats(alias).opened <= most
        assert_whole(alias)


# -- shared by transaction ------------------------------------------------------------------------------

CHANGES = [
    "SET statement_timeout = 4711",
    "set session statement_timeout to 4711",
    "SELECT 1; SET statement_timeout = 4711",
    "SELECT set_config('statement_timeout', '4711', false)",
    "RESET statement_timeout",
    "DISCARD ALL",
    f"SELECT pg_advisory_lock({LOCK})",
    f"SELECT pg_try_advisory_lock({LOCK})",
    "CREATE TEMPORARY TABLE mine (a INT)",
    "PREPARE mine AS SELECT 1",
    "LISTEN mine",
    "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
]


@postgresql
@pytest.mark.parametrize("statement", CHANGES)
def test_a_statement_that_would_change_a_shared_session_is_refused(shared: str, statement: str) -> None:
    remedy = r"SET LOCAL and pg_advisory_xact_lock\(\) in atomic\(\), and ALTER ROLE"
    for text in (statement, statement.encode()):
        with pytest.raises(TransactionManagementError, match=remedy):
            request(lambda text=text: sql(text, using=shared))
        with pytest.raises(TransactionManagementError, match=remedy), transaction.atomic(using=shared):
            sql(text, using=shared)  # type: ignore[arg-type]
    with pytest.raises(TransactionManagementError), connections[shared].cursor() as cursor:
        cursor.executemany(statement, [()])
    # None of them was executed, and the connection serves the next one.
    names = "SELECT current_setting('statement_timeout'), to_regclass('mine'), count(*) FROM pg_locks"
    assert sql(f"{names} WHERE objid = {LOCK}", using=shared) == [("0", None, 0)]
    assert pooling.stats(shared).resets == 0
    assert_whole(shared)


@postgresql
def test_a_statement_for_a_transaction_is_not(shared: str, proxy: PgBouncer) -> None:
    def setting() -> Any:
        return sql("SHOW statement_timeout", using=shared)[0][0]

    with transaction.atomic(using=shared):
        sql("SET LOCAL statement_timeout = 4711", using=shared)
        sql("SELECT set_config('lock_timeout', '4711', true)", using=shared)
        sql("SET CONSTRAINTS ALL IMMEDIATE", using=shared)
        sql("CREATE TEMPORARY TABLE mine ON COMMIT DROP AS SELECT 5 AS a", using=shared)
        assert sql("SELECT a FROM mine", using=shared) == [(5,)]
        assert setting() == "4711ms"
        assert sql(f"SELECT pg_advisory_xact_lock({LOCK})", using=shared)

        def is_free() -> bool:
            with transaction.atomic(using=shared):
                return bool(sql(f"SELECT pg_try_advisory_xact_lock({LOCK})", using=shared)[0][0])

        assert not in_thread(is_free)
    assert setting() == "0"
    assert in_thread(is_free)
    sql("DO $$ BEGIN PERFORM 1; END $$", using=shared)
    assert pooling.stats(shared).resets == 0
    # Whatever else somebody has done, the server's session isn't ours to reset.
    opened = pooling.stats(shared).opened
    pooling.pin(shared)
    connections[shared].close()
    assert (pooling.stats(shared).resets, pooling.stats(shared).opened) == (0, opened)


@postgresql
def test_what_a_shared_session_has_left_is_asked_for_in_a_transaction_only(shared: str) -> None:
    Note.objects.using(shared).create(text="one")
    with connections[shared].cursor() as cursor:
        cursor.execute("SELECT 1")
        with pytest.raises(TransactionManagementError, match="atomic"):
            cursor.execute("SELECT lastval()")
    with transaction.atomic(using=shared):
        note = Note.objects.using(shared).create(text="two")
        assert sql("SELECT lastval()", using=shared) == [(note.pk,)]


@postgresql
def test_what_django_sets_when_it_connects_is_there_for_everybody(proxy: PgBouncer) -> None:
    """PgBouncer gives each client its own time zone."""
    pool = {"SIZE": 4, "MAX_OUTSTANDING": 4, "PROXY": "transaction"}
    zones = ["Asia/Tokyo", "Africa/Cairo"]
    settings = {"PORT": str(proxy.port), "NAME": "transaction", "POOL": pool}
    with (
        another_alias(TIME_ZONE=zones[0], **settings) as one,
        another_alias(TIME_ZONE=zones[1], **settings) as other,
    ):

        def zone(alias: str) -> Callable[[], Any]:
            return lambda: [sql("SHOW TimeZone", using=alias)[0][0] for _ in range(5)]

        found = in_threads([zone(one), zone(other)] * 5)
        assert found == [[zones[0]] * 5, [zones[1]] * 5] * 5


@postgresql
def test_rows_are_read_outside_of_a_transaction_too(shared: str) -> None:
    Note.objects.using(shared).bulk_create(Note(text=str(number)) for number in range(200))

    def read() -> int:
        return sum(1 for _ in Note.objects.using(shared).iterator(chunk_size=10))

    assert in_threads([read] * 8) == [200] * 8
    with transaction.atomic(using=shared):
        assert read() == 200


# -- shared by session ----------------------------------------------------------------------------------


@postgresql
@both_scopes
def test_a_session_of_ones_own_is_changed_and_made_as_new(proxy: PgBouncer, scope: str) -> None:
    with behind(proxy, "session", size=1, scope=scope) as alias:

        def work() -> None:
            sql("SET statement_timeout = 4711", using=alias)
            assert sql("SHOW statement_timeout", using=alias) == [("4711ms",)]
            assert sql(f"SELECT pg_try_advisory_lock({LOCK})", using=alias) == [(True,)]
            sql("CREATE TEMPORARY TABLE mine (a INT)", using=alias)
            sql("SELECT * FROM mine", using=alias)

        def look() -> Any:
            locks = f"(SELECT count(*) FROM pg_locks WHERE objid = {LOCK})"
            return sql(
                f"SELECT current_setting('statement_timeout'), to_regclass('mine'), {locks}", using=alias
            )

        for _ in range(3):
            request(work)
            assert request(look) == [("0", None, 0)]


# -- PgBouncer's own troubles ---------------------------------------------------------------------------


@postgresql
def test_who_opens_while_it_is_paused_waits_no_longer_than_the_timeout() -> None:
    with start(query_wait_timeout=60) as proxy, behind(proxy, "transaction", timeout=1) as alias:
        in_thread(lambda: one(alias))
        pooling.close_all(alias)
        proxy.execute("PAUSE transaction")

        def fail() -> float:
            began = time.monotonic()
            with pytest.raises(DatabaseError):
                one(alias)
            return time.monotonic() - began

        assert max(in_threads([fail] * 5)) < 4
        proxy.execute("RESUME transaction")
        assert_whole(alias)


@postgresql
@both_modes
def test_a_statement_waits_until_it_is_resumed(mode: str) -> None:
    with start(query_wait_timeout=60) as proxy, behind(proxy, mode) as alias:
        in_threads([lambda: one(alias)] * 2)
        opened = pooling.stats(alias).opened
        proxy.execute("PAUSE transaction")

        def resume() -> None:
            time.sleep(0.5)
            proxy.execute("RESUME transaction")

        in_threads([lambda: token(alias), resume])
        assert pooling.stats(alias).opened == opened


@postgresql
@both_modes
def test_a_restart_fails_nobody_who_comes_later(proxy: PgBouncer, mode: str) -> None:
    with behind(proxy, mode) as alias:
        assert_whole(alias)
        proxy.restart()
        in_threads([lambda: request(lambda: token(alias))] * 6)
        assert_whole(alias)


@postgresql
@both_scopes
def test_who_finds_it_full_is_served_by_what_comes_back(proxy: PgBouncer, scope: str) -> None:
    """In session mode a connection of ours has one of the server's, of which there are fewer than allowed."""
    most = 3 * SERVERS
    with behind(proxy, "session", size=most, timeout=10, scope=scope) as alias:

        def visit() -> None:
            request(lambda: sql("SELECT pg_sleep(0.2)", using=alias))

        for _ in range(3):
            in_threads([visit] * most)
        assert pooling.stats(alias).timeouts == 0
        assert pooling.stats(alias).idle <= SERVERS


# -- other databases ------------------------------------------------------------------------------------


@pytest.mark.only("pymysql", "mysqlclient")
@pytest.mark.parametrize(
    "statement", ["SET @mine = 1", "SELECT GET_LOCK('mine', 1)", "SELECT SQL_CALC_FOUND_ROWS 1", "USE mysql"]
)
def test_the_same_with_mysql(statement: str) -> None:
    with another_alias(POOL={"PROXY": "transaction"}) as alias:
        with pytest.raises(TransactionManagementError, match="at the server or at the proxy"):
            sql(statement, using=alias)
        with pytest.raises(TransactionManagementError, match="atomic"), connections[alias].cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.execute("SELECT LAST_INSERT_ID()")
        with connections[alias].constraint_checks_disabled():
            one(alias)
        assert (pooling.stats(alias).opened, pooling.stats(alias).resets) == (1, 0)


@pytest.mark.only("pymysql")
@both_modes
def test_a_proxy_is_asked_nothing_that_the_user_has_not(mode: str) -> None:
    """Nor Django, when it asks which server this is."""
    asked = []
    for proxy in (None, mode):
        with (
            MySQLDoorman(int(connections.settings["default"]["PORT"])) as doorman,
            another_alias(PORT=str(doorman.port), POOL={"PROXY": proxy}) as alias,
        ):
            one(alias)
            asked.append((doorman.asked["all"], doorman.asked["track"]))
    # Neither tracking nor the session's state.
    assert asked == [(asked[0][0], 1), (asked[0][0] - 2, 0)]


@pytest.mark.only("pymysql")
def test_a_session_is_made_as_new_where_it_is_not_asked_for(observer: Observer) -> None:
    with another_alias(POOL={"PROXY": "session", "SIZE": 1}) as alias:
        for statement in ("SET @mine = 1", "USE information_schema", "SET NAMES latin1"):
            request(lambda statement=statement: sql(statement, using=alias))
            found = request(lambda: sql("SELECT @mine, DATABASE(), @@character_set_client", using=alias))
            assert found == [(None, connections.settings["default"]["NAME"], "utf8mb4")]
        assert (pooling.stats(alias).opened, pooling.stats(alias).resets) == (1, 3)


# -- checks ---------------------------------------------------------------------------------------------


def test_server_side_cursors_are_warned_of() -> None:
    def found() -> list[Any]:
        return [message for message in check_pools(None) if message.id == "django_db_pooling.W011"]

    for proxy, disabled, warned in (
        ("transaction", False, POSTGRESQL),
        ("transaction", True, False),
        ("session", False, False),
        (None, False, False),
    ):
        with another_alias(POOL={"PROXY": proxy}, DISABLE_SERVER_SIDE_CURSORS=disabled):
            assert bool(found()) is warned


@postgresql
def test_the_servers_limit_says_nothing_where_its_connections_are_shared(proxy: PgBouncer) -> None:
    changes = {"PORT": str(proxy.port), "NAME": "session"}
    for mode, is_asked in (("transaction", False), ("session", True)):
        pool = {"SIZE": 1000, "MAX_OUTSTANDING": 1000, "PROXY": mode}
        with another_alias(**changes, POOL=pool) as alias:
            assert bool(check_capacity(None, [alias])) is is_asked
            shares = [share.alias for shares in capacity.servers({}).values() for share in shares]
            assert (alias in shares) is is_asked
