"""Connections that die: killed by the server, timed out, cut by the network, their file replaced."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from django.db import Error, InterfaceError, OperationalError, connection, connections, transaction

from django_db_pooling import pooling
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    BEGIN,
    MYSQL,
    another_alias,
    assert_whole,
    committed,
    eventually,
    held,
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
from tests.proxy import TcpProxy

servers = pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2")
LOST = (OperationalError, InterfaceError)


def add(text: str) -> None:
    Note.objects.create(text=text)


def in_use(alias: str = "default") -> int:
    return pooling.stats(alias).in_use


def kill_all(observer: Observer) -> None:
    assert observer.kill()
    eventually(lambda: observer.count() == 0)


# The proxy runs in this process: a driver that stops all greenlets stops it, too.
through_proxy = pytest.mark.never("mysqlclient", "gevent")


@pytest.fixture
def proxied() -> Iterator[tuple[str, TcpProxy]]:
    settings = connections.settings["default"]
    with (
        TcpProxy(settings["HOST"], int(settings["PORT"])) as proxy,
        another_alias(HOST=proxy.host, PORT=str(proxy.port)) as alias,
    ):
        yield alias, proxy


@pytest.mark.only("pymysql", "psycopg")
def test_one_deadline_holds_however_many_connections_give_no_answer(proxied: tuple[str, TcpProxy]) -> None:
    """All six are suspect. Elsewhere the driver has no limit for an answer."""
    alias, proxy = proxied
    pooling.set_pool_size(6, max_outstanding=6, timeout=1, alias=alias)
    with held(6, alias):
        pass
    eventually(lambda: pooling.stats(alias).idle == 6)
    [pool] = registry.pools(alias)
    pool.suspect_all()
    proxy.deaf()
    began = time.monotonic()
    try:
        with pytest.raises(OperationalError):
            one(alias)
        # A second for each of them would be six.
        assert time.monotonic() - began < 3
    finally:
        proxy.resume()
    assert_whole(alias)


@pytest.mark.only("pymysql", "psycopg")
@pytest.mark.transaction_scope
@pytest.mark.parametrize("goes_on_in", ["a thread", "a scope"])
def test_it_holds_for_a_session_that_was_left_at_rest_too(
    goes_on_in: str, proxied: tuple[str, TcpProxy]
) -> None:
    """Where it goes on it is asked, and a scope gives it back first."""
    alias, proxy = proxied
    pooling.set_pool_size(1, max_outstanding=1, timeout=4, alias=alias)
    seconds: list[float] = []

    def job() -> None:
        sql("SET @mine = 1" if MYSQL else "SET my.own = 'mine'", using=alias)
        [pool] = registry.pools(alias)
        pool.suspect_all()
        proxy.deaf()
        began = time.monotonic()
        try:
            with pooling.scope("request") if goes_on_in == "a scope" else nullcontext():
                one(alias)
        except OperationalError:
            pass
        finally:
            seconds.append(time.monotonic() - began)
            proxy.resume()

    in_thread(job)
    # libpq takes two seconds at least to connect. Twice the time would be eight.
    assert seconds[0] < 7
    assert_whole(alias)


@pytest.mark.only("pymysql", "psycopg")
def test_half_of_the_time_is_left_for_a_fresh_connection(proxied: tuple[str, TcpProxy]) -> None:
    """A network that has forgotten an idle connection says nothing when it is used."""
    alias, proxy = proxied
    pooling.set_pool_size(2, max_outstanding=2, timeout=2, alias=alias)
    one(alias)
    connections[alias].close()
    [pool] = registry.pools(alias)
    pool.suspect_all()
    proxy.forget()
    token(alias)
    assert pooling.stats(alias).opened == 2


@pytest.mark.only("psycopg")
def test_what_another_thread_is_in_the_middle_of_is_not_freed(observer: Observer) -> None:
    """An event loop closes the cursor of a visitor who has left, while a thread ends the request."""
    request_started()
    one()
    raw = connection.connection
    outcome: list[BaseException] = []

    def use() -> None:
        try:
            raw.execute("SELECT pg_sleep(2)")
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    state = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{observer.name}' AND state = 'active'"
    eventually(lambda: observer.rows(state))
    request_finished()
    assert in_use() == 0
    # By its own close(), which frees it at once.
    assert not raw._closed
    thread.join(10)
    # The server was told to end it: whether it says so comes first, or the end of the connection.
    [error] = outcome
    assert {cls.__name__ for cls in type(error).__mro__} >= {"OperationalError"}
    assert type(error).__name__ in ("QueryCanceled", "OperationalError")
    assert_whole()


@servers
def test_killed_while_idle_no_request_fails(observer: Observer) -> None:
    pooling.set_pool_size(20, max_outstanding=20)
    assert_whole()
    assert pooling.stats("default").idle == 20
    kill_all(observer)

    def requests() -> None:
        for _ in range(20):
            request_started()
            token()
            request_finished()

    in_threads([requests] * 10)
    eventually(lambda: in_use() == 0)
    assert_whole()


@servers
def test_killed_while_idle_an_atomic_does_not_fail(observer: Observer) -> None:
    assert_whole()
    kill_all(observer)
    with transaction.atomic():
        add("a")
    assert committed() == ["a"]


@servers
def test_killed_while_in_use_the_statement_fails_and_the_slot_is_free_at_once(observer: Observer) -> None:
    request_started()
    number = server_id()
    kill_all(observer)
    with pytest.raises(LOST):
        one()
    assert in_use() == 0
    request_finished()
    request_started()
    assert server_id() != number
    request_finished()
    assert_whole()


@servers
def test_a_dead_connection_that_is_dropped_late_cuts_nobody_else(observer: Observer) -> None:
    """A C library closes its socket when the server is lost, and the next connection gets the number."""
    request_started()
    transaction.atomic().__enter__()
    one()
    kill_all(observer)
    with pytest.raises(LOST):
        one()
    with held(3) as let_go:
        request_finished()
        assert observer.count() == 3
        let_go()
    eventually(lambda: in_use() == 0)
    assert pooling.stats("default").idle == 3
    in_threads([token] * 3)
    assert_whole()


@pytest.mark.only("pymysql", "psycopg", "psycopg2")
def test_in_autocommit_the_same_request_goes_on_after_a_lost_connection(observer: Observer) -> None:
    """mysqlclient can't tell whether a BEGIN in text was open: there the request fails to its end."""
    request_started()
    add("before")
    kill_all(observer)
    with pytest.raises(LOST):
        add("lost")
    add("after")
    token()
    assert in_use() == 1
    request_finished()
    assert committed() == ["before", "after"]
    assert_whole()


@servers
def test_killed_inside_atomic_everything_fails_until_its_end_and_nothing_is_committed(
    observer: Observer,
) -> None:
    request_started()
    with pytest.raises(Error), transaction.atomic():
        add("a")
        kill_all(observer)
        with pytest.raises(LOST):
            add("b")
        assert in_use() == 0
        for _ in range(3):
            with pytest.raises(Error):
                add("c")
        with pytest.raises(Error), transaction.atomic():
            add("d")
        assert in_use() == 0
        add("e")
    assert committed() == []
    with transaction.atomic():
        add("f")
    assert committed() == ["f"]
    request_finished()
    assert_whole()


@servers
def test_killed_inside_atomic_and_the_error_swallowed_nothing_is_committed(observer: Observer) -> None:
    request_started()
    with transaction.atomic():
        add("a")
        kill_all(observer)
        with pytest.raises(LOST):
            add("b")
    assert connection.get_autocommit()
    add("c")
    assert committed() == ["c"]
    request_finished()
    assert_whole()


@servers
def test_killed_inside_atomic_its_on_commit_hooks_never_run(observer: Observer) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    ran: list[str] = []
    request_started()
    # Since a hook has failed, Django would run what is registered when it connects.
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        add("a")
        transaction.on_commit(fail)
    with pytest.raises(LOST), transaction.atomic():
        transaction.on_commit(lambda: ran.append("b"))
        one()
        kill_all(observer)
        add("b")
    add("c")
    assert (committed(), ran) == (["a", "c"], [])
    request_finished()
    assert_whole()


@servers
def test_killed_before_the_commit_the_commit_fails(observer: Observer) -> None:
    hooks = []
    request_started()
    with pytest.raises(LOST), transaction.atomic():
        add("a")
        transaction.on_commit(lambda: hooks.append(1))
        kill_all(observer)
    assert in_use() == 0
    assert hooks == []
    assert committed() == []
    add("b")
    assert committed() == ["b"]
    with transaction.atomic():
        add("c")
    assert hooks == []
    request_finished()
    assert_whole()


@servers
def test_killed_before_a_rollback_the_first_exception_comes_through(observer: Observer) -> None:
    request_started()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        add("a")
        kill_all(observer)
        raise ZeroDivisionError
    assert in_use() == 0
    with transaction.atomic():
        add("b")
    add("c")
    assert committed() == ["b", "c"]
    request_finished()
    assert_whole()


@servers
def test_killed_inside_an_inner_atomic_the_outer_one_is_lost_too(observer: Observer) -> None:
    with pytest.raises(Error), transaction.atomic():
        add("outer")
        with pytest.raises(Error), transaction.atomic():
            add("inner")
            kill_all(observer)
            add("lost")
        add("not alone")
    assert committed() == []
    add("after")
    assert committed() == ["after"]


@servers
@pytest.mark.parametrize("begin", ["set_autocommit", "text"])
def test_a_transaction_by_hand_is_not_continued_on_another_connection(begin: str, observer: Observer) -> None:
    """What came after the loss, committed alone, would be half of a transaction."""
    request_started()
    if begin == "text":
        sql(BEGIN)
    else:
        transaction.set_autocommit(False)
    add("a")
    kill_all(observer)
    with pytest.raises(LOST):
        add("b")
    assert in_use() == 0
    with pytest.raises(Error):
        add("c")
    with pytest.raises(Error):
        if begin == "text":
            sql("COMMIT")
        else:
            transaction.commit()
    request_finished()
    assert committed() == []
    request_started()
    add("d")
    assert committed() == ["d"]
    request_finished()
    assert_whole()


@servers
def test_killed_before_the_request_ends_nothing_fails(observer: Observer) -> None:
    for _ in range(6):
        request_started()
        transaction.set_autocommit(False)
        add("a")
        kill_all(observer)
        request_finished()
        assert in_use() == 0
    token()
    assert committed() == []
    assert_whole()


@servers
def test_one_found_dead_makes_the_others_suspect(observer: Observer) -> None:
    """The second is killed while it is idle, and looks alive until its end has been delivered."""
    for _ in range(5):
        assert_whole()
        ids = observer.ids()
        assert len(ids) == 4
        kill_all(observer)
        in_threads([token] * 8)
        eventually(lambda: in_use() == 0)
    assert pooling.stats("default").broken > 0


@pytest.mark.only("pymysql", "mysqlclient")
def test_the_servers_wait_timeout_fails_no_request(observer: Observer) -> None:
    with another_alias(OPTIONS={"init_command": "SET SESSION wait_timeout = 1"}) as other:
        one(other)
        connections[other].close()
        eventually(lambda: observer.count() == 0)
        token(other)
        assert_whole(other)


@pytest.mark.only("psycopg", "psycopg2")
def test_the_servers_idle_session_timeout_fails_no_request(observer: Observer) -> None:
    """The server sends an error before it closes: something unread is there."""
    with another_alias(OPTIONS={"options": "-c idle_session_timeout=100"}) as other:
        one(other)
        connections[other].close()
        eventually(lambda: observer.count() == 0)
        token(other)
        connections[other].close()


@servers
@through_proxy
@pytest.mark.parametrize("reset", [False, True])
def test_cut_by_the_network_while_idle_no_request_fails(reset: bool, proxied: tuple[str, TcpProxy]) -> None:
    alias, proxy = proxied
    assert_whole(alias)
    proxy.drop(reset=reset)
    in_threads([lambda: token(alias)] * 8)
    assert_whole(alias)


@servers
@through_proxy
@pytest.mark.parametrize("reset", [False, True])
def test_cut_by_the_network_while_in_use_only_its_statement_fails(
    reset: bool, proxied: tuple[str, TcpProxy]
) -> None:
    alias, proxy = proxied
    request_started()
    one(alias)
    proxy.drop(reset=reset)
    with pytest.raises(LOST):
        one(alias)
    assert in_use(alias) == 0
    request_finished()
    request_started()
    token(alias)
    request_finished()
    assert_whole(alias)


@servers
@through_proxy
def test_a_server_that_is_gone_gives_djangos_error_and_is_used_again_when_it_is_back(
    proxied: tuple[str, TcpProxy],
) -> None:
    alias, proxy = proxied
    pooling.set_pool_size(2, max_outstanding=4, timeout=1, alias=alias)
    assert_whole(alias)
    proxy.refuse()
    proxy.drop()
    for _ in range(3):
        with pytest.raises(OperationalError):
            in_thread(lambda: token(alias))
        assert in_use(alias) == 0
    proxy.resume()
    token(alias)
    assert_whole(alias)


@servers
@pytest.mark.never("mysqlclient", "gevent")
@pytest.mark.never("psycopg2", "threads")
def test_many_die_in_the_middle_of_a_statement_and_every_slot_is_free_again(observer: Observer) -> None:
    sleep = "SELECT SLEEP(20)" if MYSQL else "SELECT pg_sleep(20)"

    def victim() -> str:
        try:
            sql(sleep)
        except LOST:
            return "lost"
        return "not lost"

    def killer() -> str:
        eventually(lambda: in_use() == 4 and pooling.stats("default").opening == 0)
        eventually(lambda: sleeping(observer) == 4)
        observer.kill()
        return "lost"

    assert set(in_threads([victim] * 4 + [killer])) == {"lost"}
    eventually(lambda: in_use() == 0)
    assert_whole()


def sleeping(observer: Observer) -> int:
    if MYSQL:
        query = "SELECT count(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'"
    else:
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
        )
    return int(observer.rows(query)[0][0])


@pytest.mark.only("sqlite3")
def test_a_file_replaced_while_idle_is_opened_anew(tmp_path: Path) -> None:
    """The old file lives on, nameless, for those who have it open."""
    old, new = str(tmp_path / "a.sqlite3"), str(tmp_path / "b.sqlite3")
    for path, value in ((old, "old"), (new, "new")):
        with another_alias(NAME=path) as alias:
            sql("CREATE TABLE t (v)", using=alias)
            sql("INSERT INTO t VALUES (%s)", value, using=alias)
    with another_alias(NAME=old) as alias:
        assert sql("SELECT v FROM t", using=alias) == [("old",)]
        connections[alias].close()
        os.replace(new, old)
        assert sql("SELECT v FROM t", using=alias) == [("new",)]
        connections[alias].close()
        os.remove(old)
        sql("CREATE TABLE t (v)", using=alias)
        assert os.path.exists(old)


@pytest.mark.only("sqlite3")
def test_a_file_replaced_while_in_use_does_not_go_back_to_others(tmp_path: Path) -> None:
    path, copy = str(tmp_path / "a.sqlite3"), str(tmp_path / "b.sqlite3")
    with another_alias(NAME=path) as alias:
        sql("CREATE TABLE t (v)", using=alias)
        shutil.copy(path, copy)
        connections[alias].close()
        with another_alias(NAME=copy) as new:
            sql("INSERT INTO t VALUES (1)", using=new)
        request_started()
        one(alias)
        os.replace(copy, path)
        assert sql("SELECT v FROM t", using=alias) == []
        request_finished()
        assert in_thread(lambda: sql("SELECT v FROM t", using=alias)) == [(1,)]
