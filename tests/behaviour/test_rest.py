"""Threads that live on: what they keep only since they have changed its session goes to whoever needs it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from django.db import Error, close_old_connections, connection, connections, transaction

from django_db_pooling import pooling
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.pool import resting
from django_db_pooling.process import housekeeper
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    MYSQL,
    POSTGRESQL,
    another_alias,
    assert_whole,
    committed,
    eventually,
    in_thread,
    in_threads,
    one,
    request_finished,
    request_started,
    server_id,
    sql,
    token,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import Observer
from tests.concurrency import in_child

pytestmark = pytest.mark.transaction_scope
servers = pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2")
# As many as the pool has connections.
MOST = 4

if MYSQL:
    CHANGE, LOOK, NEW = "SET @mine = '{}'", "SELECT @mine", (None,)
elif POSTGRESQL:
    CHANGE, LOOK, NEW = "SET my.own = '{}'", "SELECT current_setting('my.own', true)", (None, "")
else:
    CHANGE, LOOK, NEW = "CREATE TEMPORARY TABLE mine AS SELECT '{}' AS a", "SELECT a FROM mine", (None,)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeper, "TICK", 0.02)
    monkeypatch.setattr(resting, "MIN_REST", 0.2)


@pytest.fixture
def short_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resting, "MAX_REST", 0.3)


@contextmanager
def scheduler(threads: int = 1) -> Iterator[Callable[..., Any]]:
    """Threads that wait for their next job; what is yielded has one of them do it."""
    with ThreadPoolExecutor(threads) as executor:
        yield lambda job, *arguments: executor.submit(job, *arguments).result(20)


def change(mine: str = "mine") -> str:
    sql(CHANGE.format(mine))
    return mine


def look() -> Any:
    """What the session was told; None where it is a new one."""
    if connection.vendor == "sqlite" and not sql("SELECT 1 FROM sqlite_temp_master WHERE name = 'mine'"):
        return None
    found = sql(LOOK)[0][0]
    return None if found in NEW else found


def in_use() -> int:
    return pooling.stats("default").in_use


@contextmanager
def all_at_rest() -> Iterator[list[Callable[..., Any]]]:
    """Each connection is kept by a thread that does nothing."""
    with ThreadPoolExecutor(MOST) as executor:
        together = threading.Barrier(MOST)

        def job() -> None:
            change()
            together.wait(20)

        for done in [executor.submit(job) for _ in range(MOST)]:
            done.result(20)
        yield [lambda job: executor.submit(job).result(20)]


def test_threads_that_have_changed_their_sessions_do_not_stop_the_site() -> None:
    with all_at_rest():
        assert in_use() == MOST
        in_threads([token] * 2 * MOST)
    assert_whole()


def test_a_request_gets_what_a_thread_has_left_and_as_new() -> None:
    with all_at_rest():

        def request() -> Any:
            request_started()
            try:
                return look()
            finally:
                request_finished()

        assert in_threads([request] * MOST) == [None] * MOST
    assert_whole()


def test_the_thread_begins_a_new_session_then_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "django_db_pooling")
    pooling.set_pool_size(1, max_outstanding=1)
    with scheduler() as do:
        for _ in range(3):
            assert do(change) == do(look)
            in_thread(token)
            assert do(look) is None

        def told() -> list[Any]:
            events = [vars(record).get("pool_event") for record in list(caplog.records)]
            return [event for event in events if event == "session_ended"]

        eventually(told)
        assert told() == ["session_ended"]
    assert_whole()


def test_a_job_that_goes_on_at_once_keeps_its_session_though_others_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others look for what they can have at every moment in which the job has nothing to execute."""
    monkeypatch.setattr(resting, "MIN_REST", 20.0)
    pooling.set_pool_size(1, max_outstanding=1, timeout=20)
    with scheduler() as do:

        def job() -> list[Any]:
            change("kept")
            waiting = threading.Thread(target=token)
            waiting.start()
            eventually(lambda: pooling.stats("default").waiting == 1)
            seen = [look() for _ in range(20)]
            close_old_connections()
            waiting.join(20)
            return seen

        assert do(job) == ["kept"] * 20
    assert_whole()


def test_while_nobody_waits_it_keeps_its_session() -> None:
    with scheduler() as do:
        do(change)
        in_threads([token] * 3)
        assert do(look) == "mine"
        assert in_use() == 1
    assert_whole()


def test_after_a_short_rest_it_goes_back_though_nobody_waits(short_rest: None) -> None:
    with scheduler() as do:
        do(change)
        eventually(lambda: in_use() == 0)
        assert do(look) is None
    assert_whole()


def close() -> None:
    connection.close()


@pytest.mark.parametrize("end", [close_old_connections, close, pooling.release, request_finished])
def test_who_says_that_its_work_is_over_gives_back_at_once(end: Callable[[], None]) -> None:
    with scheduler() as do:
        do(change)
        assert in_use() == 1
        do(end)
        assert in_use() == 0
        assert do(look) is None
    assert_whole()


def test_the_end_of_the_thread_gives_back_at_once() -> None:
    in_thread(change)
    eventually(lambda: in_use() == 0)
    assert in_thread(look) is None
    assert_whole()


if MYSQL:
    LOCKS = {
        "a lock": ("DO GET_LOCK('rest', 0)", "SELECT RELEASE_LOCK('rest')"),
        "two locks": ("SELECT GET_LOCK('a', 0), GET_LOCK('b', 0)", "SELECT RELEASE_ALL_LOCKS()"),
        "a locked table": ("LOCK TABLES behaviour_note WRITE", "UNLOCK TABLES"),
    }
elif POSTGRESQL:
    LOCKS = {
        "a lock": ("SELECT pg_try_advisory_lock(4712)", "SELECT pg_advisory_unlock(4712)"),
        "two locks": (
            "SELECT pg_advisory_lock(4713), pg_advisory_lock_shared(4714)",
            "SELECT pg_advisory_unlock_all()",
        ),
        "listening": ("LISTEN rest", "UNLISTEN rest"),
    }
else:
    LOCKS = {}


@servers
@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_not_given_up_until_its_thread_does(lock: str, short_rest: None) -> None:
    """Others would have it, and the thread would not know."""
    take, give_back = LOCKS[lock]
    pooling.set_pool_size(1, max_outstanding=1, timeout=0.5)
    with scheduler() as do:
        do(sql, take)
        number = do(lambda: connection.connection and server_id())
        with pytest.raises(PoolTimeout):
            in_thread(one)
        assert do(server_id) == number
        do(sql, give_back)
        in_thread(token)
        eventually(lambda: in_use() == 0)
    assert_whole()


def test_in_a_scope_the_session_is_its_own_to_the_end() -> None:
    pooling.set_pool_size(1, max_outstanding=1, timeout=0.5)
    with scheduler() as do:

        @pooling.scope("request")
        def job() -> Any:
            change("kept")
            with pytest.raises(PoolTimeout):
                in_thread(one)
            return look()

        do(change)
        assert do(job) == "kept"
        assert in_use() == 0
    assert_whole()


def test_a_scope_and_a_request_begin_with_a_session_of_their_own() -> None:
    with scheduler() as do:
        do(change)
        assert do(pooling.scope("transaction")(look)) is None
        do(change)

        def request() -> Any:
            request_started()
            seen = look()
            request_finished()
            return seen

        assert do(request) is None
        assert in_use() == 0
    assert_whole()


def test_a_late_receiver_of_request_finished_keeps_no_connection() -> None:
    """As one of a package for row-level security, which comes after ours."""
    with scheduler() as do:

        def request() -> None:
            request_started()
            token()
            request_finished()
            change()

        do(request)
        pooling.set_pool_size(1, max_outstanding=1)
        in_thread(token)
        assert do(look) is None
    assert_whole()


def test_a_transaction_is_not_taken_away() -> None:
    pooling.set_pool_size(1, max_outstanding=1, timeout=0.5)
    with scheduler() as do:

        def job() -> Any:
            with transaction.atomic():
                change("kept")
                Note.objects.create(text="kept")
                with pytest.raises(PoolTimeout):
                    in_thread(one)
                return look()

        assert do(job) == "kept"
    assert_whole()


@pytest.mark.only("pymysql", "mysqlclient")
@pytest.mark.parametrize("before", ["SET @mine = 1", "SET profiling = 1"])
def test_a_transaction_in_plain_words_is_not_taken_away(before: str) -> None:
    """Also from who has done before what no reset undoes, where the driver can't say that one is open."""
    pooling.set_pool_size(1, max_outstanding=1, timeout=0.5)
    with scheduler() as do:

        def job() -> None:
            sql(before)
            sql("START TRANSACTION")
            Note.objects.create(text="kept")
            with pytest.raises(PoolTimeout):
                in_thread(one)
            sql("COMMIT")

        do(job)
        assert do(Note.objects.filter(text="kept").count) == 1
    assert_whole()


def test_the_main_thread_keeps_its_session() -> None:
    """Commands and scripts run in it."""
    pooling.set_pool_size(1, max_outstanding=1, timeout=0.5)
    change()
    with pytest.raises(PoolTimeout):
        in_thread(one)
    assert look() == "mine"
    connection.close()
    assert_whole()


@servers
def test_one_that_died_at_rest_is_replaced(observer: Observer) -> None:
    with scheduler() as do:
        do(change)
        observer.kill()
        eventually(lambda: observer.count() == 0)
        assert do(look) is None
    assert_whole()


@pytest.mark.parametrize("end", [pooling.recycle, pooling.close_all])
def test_recycle_replaces_those_at_rest(end: Callable[[], None], observer: Observer) -> None:
    with scheduler() as do:
        do(change)
        end()
        eventually(lambda: observer.count() == 0)
        assert in_use() == 0
        assert do(look) is None
    assert_whole()


def test_a_child_has_nothing_of_what_is_at_rest(observer: Observer) -> None:
    def child() -> list[Any]:
        before = in_use()
        seen = look()
        connection.close()
        pooling.close_all()
        return [before, seen]

    with scheduler() as do:
        do(change)
        assert do(in_child, child) == [0, None]
        assert do(look) == "mine"
    assert_whole()


@pytest.mark.parametrize("comes_back", [look, close])
@pytest.mark.parametrize("taken_away", ["while others wait", "at the end of its rest"])
def test_what_another_thread_has_left_since_then_stays_its_own(
    comes_back: Callable[[], Any], taken_away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection may be the same one, and rests again."""
    pooling.set_pool_size(1, max_outstanding=1)
    with scheduler() as do, scheduler() as do_another:
        do(change)
        if taken_away == "at the end of its rest":
            monkeypatch.setattr(resting, "MAX_REST", 0.1)
            eventually(lambda: in_use() == 0)
            monkeypatch.setattr(resting, "MAX_REST", 10.0)
        do_another(change, "another")
        assert do_another(look) == "another"
        assert do(comes_back) is None
        if comes_back is close:
            assert do_another(look) == "another"
    assert_whole()


def test_a_block_that_has_not_begun_survives_the_end_of_the_rest() -> None:
    class Oops(Exception):
        pass

    with scheduler() as do:

        def job() -> None:
            change()
            with pytest.raises(Oops), transaction.atomic():
                close_old_connections()
                Note.objects.create(text="rolled back")
                raise Oops
            called: list[str] = []
            with transaction.atomic():
                transaction.on_commit(lambda: called.append("hook"))
                close_old_connections()
                Note.objects.create(text="kept")
            assert called == ["hook"]

        do(job)
    assert committed() == ["kept"]
    assert_whole()


def test_close_in_a_block_that_has_not_begun_is_its_end() -> None:
    with scheduler() as do:

        def job() -> None:
            change()
            with transaction.atomic():
                connection.close()
                with pytest.raises(Error):
                    Note.objects.create(text="not in a block")

        do(job)
    assert committed() == []
    assert_whole()


def test_in_a_crowd_nobody_sees_another_ones_session() -> None:
    seen: list[tuple[str, Any]] = []

    def job() -> None:
        for _ in range(15):
            mine = uuid4().hex
            if connection.vendor == "sqlite":
                sql("DROP TABLE IF EXISTS temp.mine")
            change(mine)
            seen.append((mine, look()))
            token()
            time.sleep(0.005)

    in_threads([job] * 3 * MOST)
    assert {found for mine, found in seen if found != mine} <= {None}
    assert [found for mine, found in seen if found == mine]
    eventually(lambda: in_use() == 0)
    assert_whole()


def test_an_interruption_while_a_session_is_taken_up_keeps_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames of what strikes refer to the slot, which neither the pool nor a wrapper has."""

    def interrupted(connection: object) -> bool:
        raise TimeoutError("as a time limit of a task")

    with scheduler() as run:
        run(change)
        pool = next(pool for pool in registry.pools("default") if not pool.closing)
        with monkeypatch.context() as patch:
            patch.setattr(pool.driver, "alive", interrupted)
            with pytest.raises(TimeoutError) as failed:
                run(one)
            assert pooling.stats("default").in_use == 0
        assert failed.value.__traceback__ is not None
        run(token)
    assert_whole()


def test_a_rest_that_ends_after_its_settings_have_changed_is_closed() -> None:
    with another_alias() as alias, scheduler() as run:
        run(lambda: sql(CHANGE.format("mine"), using=alias))
        [pool] = registry.pools(alias)
        assert len(pool.resting) == 1
        connections.settings[alias]["CONN_HEALTH_CHECKS"] = True
        in_thread(lambda: token(alias))
        assert len(pool.resting) == 1
        pool.resting.end_all()
        eventually(lambda: len(pool) == 1)
        assert [slot.affinity[1] for slot in pool.slots.idle()] == [pool.current]
