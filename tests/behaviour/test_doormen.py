"""What stands between us and the server refuses: a session's reset or tracking, a statement, a login."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connections

from django_db_pooling import pooling
from django_db_pooling.backend.checkin import NO_RESET
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    another_alias,
    assert_whole,
    eventually,
    in_thread,
    in_threads,
    one,
    request,
    request_finished,
    request_started,
    sql,
)
from tests.behaviour.observer import Observer
from tests.doormen import HANG_UP, SWALLOW, MySQLDoorman, PostgreSQLDoorman, Refusal

only_pymysql = pytest.mark.only("pymysql")
only_postgresql = pytest.mark.only("psycopg", "psycopg2")

TIMES = 5


@pytest.fixture
def doorman() -> Iterator[MySQLDoorman]:
    with MySQLDoorman(int(connections.settings["default"]["PORT"])) as one:
        yield one


def change(alias: str) -> None:
    sql("SET @mine = 1", using=alias)


def mine(alias: str) -> Any:
    return sql("SELECT @mine", using=alias)[0][0]


# -- the reset of a session -----------------------------------------------------------------------------


@only_pymysql
@pytest.mark.parametrize("refusal", [1047, 1835, 9006, HANG_UP])
def test_a_reset_that_is_refused_is_not_asked_for_again(doorman: MySQLDoorman, refusal: Refusal) -> None:
    doorman.reset = refusal
    with another_alias(PORT=str(doorman.port)) as alias:
        for _ in range(TIMES):
            request(lambda: change(alias))
            assert request(lambda: mine(alias)) is None
        assert doorman.asked["reset"] == 1
        assert pooling.stats(alias).opened == TIMES + 1
        # What isn't changed is kept.
        for _ in range(TIMES):
            request(lambda: one(alias))
        assert pooling.stats(alias).opened == TIMES + 1
        # For a while, or until somebody knows better.
        doorman.reset = None
        [pool] = registry.pools(alias)
        assert pool.current is not None
        pool.current.no_reset_before -= NO_RESET
        for _ in range(TIMES):
            request(lambda: change(alias))
            assert request(lambda: mine(alias)) is None
        assert (pooling.stats(alias).resets, pooling.stats(alias).opened) == (TIMES, TIMES + 1)
        doorman.reset = refusal
        request(lambda: change(alias))
        doorman.reset = None
        pooling.recycle(alias)
        request(lambda: change(alias))
        assert pooling.stats(alias).resets == TIMES + 1


@only_pymysql
def test_a_refused_reset_is_told_once(doorman: MySQLDoorman, caplog: pytest.LogCaptureFixture) -> None:
    doorman.reset = 1047
    with another_alias(PORT=str(doorman.port)) as alias:
        [pool] = _pools(alias)

        def refused() -> int:
            pool.journal.write(is_last=True)
            return sum("resetting a session failed" in message for message in caplog.messages)

        for _ in range(3):
            request(lambda: change(alias))
            assert pool.current is not None
            pool.current.no_reset_before -= NO_RESET
        assert (doorman.asked["reset"], refused()) == (3, 1)
        doorman.reset = None
        request(lambda: change(alias))
        doorman.reset = 1047
        request(lambda: change(alias))
        assert refused() == 2


@only_pymysql
@pytest.mark.parametrize(
    ("work", "trips"),
    [("SET @mine = 1", 2), ("SET NAMES latin1", 2), ("SET autocommit = 0", 2), ("USE information_schema", 4)],
)
def test_a_reset_takes_two_round_trips(doorman: MySQLDoorman, work: str, trips: int) -> None:
    """After a USE two more, with which the database is changed back."""
    # Without what Django itself sets.
    options = {"sql_mode": "STRICT_ALL_TABLES,ANSI_QUOTES", "isolation_level": None}
    with another_alias(PORT=str(doorman.port), OPTIONS=options, POOL={"SIZE": 1}) as alias:
        new = _session(alias)
        for _ in range(2):
            request_started()
            sql(work, using=alias)
            before = doorman.asked["all"]
            request_finished()
            # A transaction that was left open is rolled back.
            is_left = work == "SET autocommit = 0"
            assert doorman.asked["all"] - before == trips + is_left
            assert _session(alias) == new
        assert (pooling.stats(alias).resets, pooling.stats(alias).opened) == (2, 1)


def _session(alias: str) -> list[Any]:
    names = "sql_mode", "autocommit", "character_set_client", "collation_connection", "time_zone"
    names += ("session_track_state_change",)
    columns = ", ".join(f"@@SESSION.{name}" for name in names)
    found: list[Any] = request(lambda: sql(f"SELECT DATABASE(), CONNECTION_ID(), {columns}", using=alias))
    return found


def _pools(alias: str) -> list[Any]:
    request(lambda: one(alias))
    return list(registry.pools(alias))


# -- session tracking -----------------------------------------------------------------------------------


@only_pymysql
@pytest.mark.parametrize("refusal", [1193, 1231, 1227, 1047, 9006, SWALLOW])
def test_who_refuses_to_track_sessions_is_used_all_the_same(doorman: MySQLDoorman, refusal: Refusal) -> None:
    doorman.track = refusal
    with another_alias(PORT=str(doorman.port)) as alias:
        for _ in range(2):
            request(lambda: change(alias))
            assert request(lambda: mine(alias)) is None
        assert (pooling.stats(alias).resets, pooling.stats(alias).opened) == (2, 1)
        # And isn't asked for it again.
        assert doorman.asked["track"] == 1


@only_pymysql
def test_who_hangs_up_meanwhile_is_away(doorman: MySQLDoorman) -> None:
    doorman.track = HANG_UP

    def back_in_a_moment() -> None:
        time.sleep(0.3)
        doorman.track = None

    with another_alias(PORT=str(doorman.port)) as alias:
        threading.Thread(target=back_in_a_moment).start()
        one(alias)


# -- a node that is not ready ---------------------------------------------------------------------------


@only_pymysql
@pytest.mark.parametrize("refusal", [1047, 9001, 1053])
def test_a_node_that_is_not_ready_fails_one_statement(doorman: MySQLDoorman, refusal: int) -> None:
    """Its logins and pings work, or lead to another one."""
    with another_alias(PORT=str(doorman.port)) as alias:
        pooling.set_pool_size(3, max_outstanding=3, alias=alias)
        assert_whole(alias)
        assert pooling.stats(alias).idle == 3
        doorman.refuse_what_is_open(refusal)
        failed = 0
        for _ in range(10):
            try:
                request(lambda: one(alias))
            except DatabaseError:
                failed += 1
        assert failed == 1
        assert_whole(alias)


@only_pymysql
def test_a_certificate_that_is_wrong_is_no_server_that_is_away() -> None:
    """Nobody has signed that of the tests' server."""
    with another_alias(OPTIONS={"ssl": {"verify_mode": True}}) as alias:
        began = time.monotonic()
        with pytest.raises(OperationalError, match="(?i)certificate"):
            one(alias)
        assert time.monotonic() - began < 2
        assert not any(pool.growth.failing for pool in registry.pools(alias))


# -- a login --------------------------------------------------------------------------------------------

AWAY = [
    ("query_wait_timeout", "08P01"),
    ("client_login_timeout", "08P01"),
    ("server conn crashed?", "08P01"),
    ("too many active clients for user", "53300"),
    ("pgbouncer cannot connect to server", "08P01"),
]


@pytest.fixture
def postgresql() -> Iterator[PostgreSQLDoorman]:
    with PostgreSQLDoorman(int(connections.settings["default"]["PORT"])) as one:
        yield one


@only_postgresql
@pytest.mark.parametrize(("text", "code"), AWAY, ids=[text for text, _ in AWAY])
def test_a_proxy_that_takes_nobody_in_for_a_moment_is_waited_for(
    postgresql: PostgreSQLDoorman, text: str, code: str
) -> None:
    with another_alias(PORT=str(postgresql.port)) as alias:
        postgresql.refuse(2, text, code)
        assert in_thread(lambda: one(alias)) == 1
        assert postgresql.left == 0


@only_postgresql
def test_one_that_refuses_for_good_is_not(postgresql: PostgreSQLDoorman) -> None:
    with another_alias(PORT=str(postgresql.port)) as alias:
        postgresql.refuse(2, "no such user", "28000")
        with pytest.raises(OperationalError, match="no such user"):
            one(alias)
        assert postgresql.left == 1


@only_postgresql
def test_one_that_ends_in_the_handshake_is_waited_for(postgresql: PostgreSQLDoorman) -> None:
    postgresql.is_encrypted = True
    with another_alias(PORT=str(postgresql.port), OPTIONS={"sslmode": "require"}) as alias:
        postgresql.refuse(2, "")
        # After that it has no TLS.
        with pytest.raises(OperationalError, match="does not support SSL"):
            one(alias)
        assert postgresql.left == 0


@only_postgresql
def test_while_no_host_takes_writes_one_is_waited_for(set_read_only: Callable[[bool], None]) -> None:
    """As in a switchover."""

    def back_in_a_moment() -> None:
        eventually(lambda: any(pool.growth.failing for pool in registry.pools(alias)))
        set_read_only(False)

    with another_alias(OPTIONS={"target_session_attrs": "read-write"}) as alias:
        set_read_only(True)
        assert in_threads([lambda: one(alias), back_in_a_moment])[0] == 1


@only_postgresql
def test_while_no_host_is_a_standby_one_is_waited_for() -> None:
    with another_alias(OPTIONS={"target_session_attrs": "standby"}, POOL={"CONNECT_RETRY": 0.5}) as alias:
        began = time.monotonic()
        with pytest.raises(OperationalError, match="hot standby"):
            one(alias)
        assert time.monotonic() - began > 0.4


@pytest.fixture
def set_read_only(observer: Observer) -> Iterator[Callable[[bool], None]]:
    def set_it(how: bool) -> None:
        word = "on" if how else "off"
        observer.rows(f"ALTER SYSTEM SET default_transaction_read_only = {word}")
        observer.rows("SELECT pg_reload_conf()")
        eventually(lambda: observer.rows("SHOW default_transaction_read_only") == [(word,)])

    yield set_it
    set_it(False)
