"""A process that forks with connections in every state keeps them; its children open their own.

Whatever way a child ends: the server, or SQLite's files, must not notice anything of it.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import Error, close_old_connections, connection, connections, transaction

from django_db_pooling import pooling
from tests.behaviour.conftest import (
    MYSQL,
    PATIENCE,
    POSTGRESQL,
    assert_whole,
    committed,
    eventually,
    held,
    in_thread,
    request_finished,
    request_started,
    server_id,
    sql,
    token,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import Observer
from tests.behaviour.test_errors import in_process
from tests.concurrency import in_child, silent_fork

servers = pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2")

if MYSQL:
    LOCK, UNLOCK = "SELECT GET_LOCK('fork', 20)", "SELECT RELEASE_LOCK('fork')"
    LOCK_AND_ANSWER = "SELECT %s FROM (SELECT GET_LOCK('fork', 20)) AS locked"
    WAITING = "SELECT 1 FROM information_schema.processlist WHERE db = '{}' AND state = 'User lock'"
else:
    LOCK, UNLOCK = "SELECT pg_advisory_lock(4711)", "SELECT pg_advisory_unlock(4711)"
    LOCK_AND_ANSWER = "SELECT %s FROM pg_advisory_lock(4711)"
    WAITING = "SELECT 1 FROM pg_stat_activity WHERE datname = '{}' AND wait_event = 'advisory'"
if MYSQL:
    CHANGE, LOOK = "SET @mine = 'mine'", "SELECT @mine"
elif POSTGRESQL:
    CHANGE, LOOK = "SET my.own = 'mine'", "SELECT current_setting('my.own', true)"
else:
    CHANGE, LOOK = "CREATE TEMPORARY TABLE mine AS SELECT 'mine' AS a", "SELECT a FROM mine"

# Leaves a block of the parent's in whatever way; each child ends in another one.
FAMILY = """
import multiprocessing
from tests.behaviour.conftest import committed, eventually, held, in_thread, server_id, token
from tests.behaviour.models import Note
from django.db import connection, connections, transaction
from django_db_pooling import pooling

pooling.patch()
pooling.set_pool_size(2, max_outstanding=4, timeout=5)
reading, writing = os.pipe()

class Leave(Exception):
    pass

def work():
    token()
    os.write(writing, f"{server_id()} ".encode())

def say_goodbye():
    connections.close_all()
    pooling.close_all()

def of_multiprocessing():
    in_thread(work)
    say_goodbye()

def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

with held(1):
    pass
eventually(lambda: pooling.stats("default").idle == 1)
statuses = {}
try:
    with transaction.atomic():
        Note.objects.create(text="before")
        number = server_id()
        for ending in ("os._exit", "sys.exit", "exception", "end of the program", "child of its own"):
            pid = os.fork()
            if pid == 0:
                raise Leave
            statuses[ending] = wait(pid)
        process = multiprocessing.get_context("fork").Process(target=of_multiprocessing)
        process.start()
        process.join()
        statuses["multiprocessing"] = process.exitcode
        Note.objects.create(text="after")
        same = connection.vendor == "sqlite" or server_id() == number
except Leave:
    if ending == "child of its own":
        grandchild = os.fork()
        work()
        if grandchild:
            sys.exit(wait(grandchild))
    else:
        work()
    if ending == "os._exit":
        say_goodbye()
        os._exit(0)
    if ending == "sys.exit":
        sys.exit(0)
    if ending == "exception":
        raise ZeroDivisionError
else:
    os.close(writing)
    connections.close_all()
    with held(2):
        pass
    told = {
        "statuses": statuses,
        "same": same,
        "opened": pooling.stats("default").opened,
        "committed": committed(),
        "number": number,
        "numbers of children": [int(number) for number in os.read(reading, 4096).split()],
    }
    print(json.dumps(told))
"""


def complaints(observer: Observer) -> list[str]:
    """What the server says of clients of our database that left without a goodbye or spoke nonsense."""
    if POSTGRESQL:
        counts = "sessions_abandoned, sessions_fatal, sessions_killed"
        return [
            str(observer.rows(f"SELECT {counts} FROM pg_stat_database WHERE datname = '{observer.name}'"))
        ]
    if MYSQL:
        # Where tests.servers puts it: beside the data.
        [(data,)] = observer.rows("SELECT @@datadir")
        log = Path(data).parent / "server.log"
        mark = f"db: '{observer.name}'"
        return [line for line in log.read_text(errors="replace").splitlines() if mark in line]
    return []


@pytest.fixture(autouse=True)
def good_manners(fresh_pool: None, observer: Observer) -> Iterator[None]:
    before = complaints(observer)
    yield
    request_finished()
    connections.close_all()
    assert pooling.close_all(timeout=PATIENCE)
    eventually(lambda: observer.count() == 0)
    assert complaints(observer) == before


def child_with_its_own_connection() -> Any:
    """What a child does; it says goodbye, since os._exit() won't."""
    before = pooling.stats("default")
    number = server_id()
    token()
    connections.close_all()
    pooling.close_all()
    return [before.in_use, before.idle, number]


Fork = Callable[..., None]


@pytest.fixture(params=[os.fork, silent_fork], ids=["by Python", "by C"])
def fork(request: pytest.FixtureRequest) -> Fork:
    """Forks so many children, which use none of their parent's connections."""

    def fork(times: int = 1) -> None:
        for _ in range(times):
            assert in_child(child_with_its_own_connection, request.param)[:2] == [0, 0]

    return fork


# -- states in which connections are when the process forks ---------------------------------------


def test_idle_connections_stay_the_parents(fork: Fork, observer: Observer) -> None:
    with held(2):
        pass
    eventually(lambda: pooling.stats("default").idle == 2)
    ids = set(observer.ids())
    opened = pooling.stats("default").opened
    fork(3)
    with held(2):
        # The server may take its time to see that the children's own are gone.
        eventually(lambda: set(observer.ids()) == ids)
    assert pooling.stats("default").opened == opened
    assert_whole()


def test_a_request_goes_on_with_its_connection(fork: Fork) -> None:
    request_started()
    number = server_id()
    fork(2)
    assert server_id() == number
    token()
    request_finished()
    assert pooling.stats("default").in_use == 0


def test_a_transaction_in_another_thread_than_the_one_that_forks_goes_on(fork: Fork) -> None:
    with transaction.atomic():
        Note.objects.create(text="parent")
        number = server_id()
        in_thread(fork)
        assert server_id() == number or connection.vendor == "sqlite"
    assert committed() == ["parent"]


def test_autocommit_switched_off_stays_so_in_the_parent_only(fork: Fork) -> None:
    transaction.set_autocommit(False)
    Note.objects.create(text="parent")
    fork()
    transaction.rollback()
    transaction.set_autocommit(True)
    assert committed() == []


@servers
@pytest.mark.never("mysqlclient", "gevent")
def test_a_statement_that_another_thread_is_in_gets_its_own_answer(fork: Fork, observer: Observer) -> None:
    """mysqlclient lets no other greenlet run meanwhile, so nobody can fork."""
    answers: list[tuple[Any, Any]] = []
    unique = uuid4().hex

    def wait_for_lock() -> None:
        number = server_id()
        answers.append((sql(LOCK_AND_ANSWER, unique), number == server_id()))

    sql(LOCK)
    thread = threading.Thread(target=wait_for_lock)
    thread.start()
    eventually(lambda: observer.rows(WAITING.format(observer.name)))
    fork(3)
    assert observer.rows(WAITING.format(observer.name))
    sql(UNLOCK)
    thread.join(PATIENCE)
    assert answers == [([(unique,)], True)]


def test_a_caller_that_waits_for_a_connection_gets_one(fork: Fork) -> None:
    pooling.set_pool_size(1, max_outstanding=1)
    timeouts = pooling.stats("default").timeouts
    with held(1):
        thread = threading.Thread(target=token)
        thread.start()
        eventually(lambda: pooling.stats("default").waiting == 1)
        fork(2)
        assert pooling.stats("default").waiting == 1
    thread.join(PATIENCE)
    assert not thread.is_alive()
    eventually(lambda: pooling.stats("default").in_use == 0)
    assert pooling.stats("default").timeouts == timeouts


# -- what the child of a server written in C does first ---------------------------------------------------


def of_another_thread() -> None:
    """It comes by before the one that was the parent's."""
    in_thread(token)
    token()


def on_the_parents_wrapper() -> None:
    with THEIRS["wrapper"].cursor() as cursor:
        cursor.execute("SELECT 1")
    THEIRS["wrapper"].close()


def on_the_parents_cursor() -> None:
    with pytest.raises(Exception):  # noqa: B017 - each driver has its own
        THEIRS["cursor"].execute("SELECT 1")


def fetch_from_the_parents_rows() -> None:
    with pytest.raises(Error):
        THEIRS["rows"].fetchone()


def end_of_the_parents_objects() -> None:
    THEIRS.clear()
    del connections["default"]
    gc.collect()


# What the parent holds when it forks.
THEIRS: dict[str, Any] = {}
FIRST: dict[str, Callable[[], Any]] = {
    "a statement": token,
    "a statement of another thread's": of_another_thread,
    "a statement on the parent's wrapper": on_the_parents_wrapper,
    "a statement on the parent's cursor": on_the_parents_cursor,
    "a request": lambda: (request_started(), token(), request_finished()),
    "a transaction": lambda: transaction.atomic(token)(),
    "a rollback": transaction.rollback,
    "a commit": transaction.commit,
    "autocommit": lambda: transaction.set_autocommit(True),
    "close": connection.close,
    "close_old_connections()": close_old_connections,
    "the end of a request on the parent's wrapper": lambda: THEIRS["wrapper"].close_if_unusable_or_obsolete(),
    "a question whether it is usable": lambda: THEIRS["wrapper"].is_usable(),
    "close_all() of Django's": connections.close_all,
    "close_all()": pooling.close_all,
    "recycle()": pooling.recycle,
    "release()": pooling.release,
    "pin()": pooling.pin,
    "stats()": pooling.stats,
    "set_pool_size()": lambda: pooling.set_pool_size(1, max_outstanding=1),
    "patch()": pooling.patch,
    "the end of the parent's objects": end_of_the_parents_objects,
}
if connection.vendor == "sqlite":
    # Of its own connection there is nothing that could be cut off.
    del FIRST["a statement on the parent's cursor"]


if POSTGRESQL:
    # Which the server keeps.
    FIRST["another of the parent's rows"] = fetch_from_the_parents_rows
    FIRST["the end of the parent's rows"] = lambda: THEIRS["rows"].close()


@pytest.mark.parametrize("state", ["as new", "changed"])
@pytest.mark.parametrize("first", FIRST)
def test_whatever_a_child_does_first_the_parent_goes_on_undisturbed(
    first: str, state: str, observer: Observer
) -> None:
    """One connection is in use, in a request, one is idle. Python isn't told of the fork."""

    def child() -> list[Any]:
        FIRST[first]()
        answers = [child_with_its_own_connection()[2] for _ in range(2)]
        return answers

    with held(2):
        pass
    eventually(lambda: pooling.stats("default").idle == 2)
    request_started()
    if state == "changed":
        sql(CHANGE)
    number = server_id()
    ids = set(observer.ids())
    THEIRS.update(wrapper=connections["default"], cursor=connection.cursor())
    if POSTGRESQL:
        THEIRS["rows"] = connection.chunked_cursor()
        THEIRS["rows"].execute("SELECT generate_series(1, 2)")
        assert THEIRS["rows"].fetchone() == (1,)
    try:
        theirs = in_child(child, silent_fork)
        if connection.vendor != "sqlite":
            assert ids.isdisjoint(theirs)
            eventually(lambda: set(observer.ids()) == ids)
        assert server_id() == number
        token()
        if state == "changed":
            assert sql(LOOK) == [("mine",)]
        if POSTGRESQL:
            assert THEIRS["rows"].fetchone() == (2,)
    finally:
        for cursor in ("cursor", "rows"):
            if cursor in THEIRS:
                THEIRS.pop(cursor).close()
        THEIRS.clear()
    request_finished()
    assert_whole()


def test_a_block_of_the_parents_is_over_in_a_child() -> None:
    """Neither does its statement run outside of a transaction, nor on the parent's connection."""

    def child() -> str:
        try:
            token()
        except Exception as error:
            return type(error).__name__
        return "nothing was raised"

    with transaction.atomic():
        Note.objects.create(text="parent")
        assert in_child(child, silent_fork) == "TransactionManagementError"
        Note.objects.create(text="parent, after the fork")
    assert committed() == ["parent", "parent, after the fork"]


# -- ways in which children end -----------------------------------------------------------------------


def test_no_way_in_which_a_child_ends_disturbs_the_parents_transaction() -> None:
    """One is idle, too. The children leave the parent's block by an exception."""
    told = in_process(FAMILY)
    assert told["statuses"] == {
        "os._exit": 0,
        "sys.exit": 0,
        "exception": 1,
        "end of the program": 0,
        "child of its own": 0,
        "multiprocessing": 0,
    }
    assert told["same"]
    assert told["opened"] == 2
    assert told["committed"] == ["before", "after"]
    theirs = told["numbers of children"]
    assert len(theirs) == 7
    if connection.vendor != "sqlite":
        assert len({told["number"], *theirs}) == 8
