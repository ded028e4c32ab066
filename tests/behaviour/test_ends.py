"""Where a checkout ends: with its thread or greenlet, scope(), release(), close_all(), recycle()."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core import signals
from django.db import DatabaseError, connection, connections, transaction
from django.db.transaction import TransactionManagementError
from django.utils.connection import ConnectionDoesNotExist

from django_db_pooling import pooling
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    BEGIN,
    PATIENCE,
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


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def in_use(alias: str = "default") -> int:
    return pooling.stats(alias).in_use


def add(text: str) -> None:
    Note.objects.create(text=text)


@pytest.mark.transaction_scope
@pytest.mark.parametrize("left_open", [False, True])
def test_an_error_that_django_keeps_for_a_block_goes_with_its_connection(left_open: bool) -> None:
    """Its frames refer to the slot: should a later holder drop that, it could not be reclaimed."""
    request_started()
    block = transaction.atomic()
    block.__enter__()
    with pytest.raises(DatabaseError) as failed:
        Note.objects.create(text=None)
    with pytest.raises(TransactionManagementError) as refused:
        token()
    assert refused.value.__cause__ is failed.value
    if not left_open:
        transaction.set_rollback(True)
        block.__exit__(None, None, None)
    request_finished()
    assert in_use() == 0
    assert connection.rollback_exc is None


@pytest.mark.transaction_scope
def test_a_block_that_got_no_connection_keeps_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames of what interrupts a checkout refer to the slot that was just taken."""
    token()
    connection.close()
    pool = next(pool for pool in registry.pools("default") if not pool.closing)

    def interrupted(connection: object) -> bool:
        raise TimeoutError("as a time limit of a task")

    block = transaction.atomic()
    block.__enter__()
    with monkeypatch.context() as patch:
        patch.setattr(pool.driver, "alive", interrupted)
        with pytest.raises(TimeoutError) as failed:
            Note.objects.create(text="a")
    assert in_use() == 0
    assert connection.rollback_exc is failed.value
    block.__exit__(type(failed.value), failed.value, None)
    assert connection.rollback_exc is None
    token()


# -- threads and greenlets --------------------------------------------------------------------


def test_the_end_of_a_thread_gives_a_clean_connection_back_without_the_garbage_collector(
    no_garbage_collection: None,
) -> None:
    """A wrapper is a reference cycle: it can't be what notices the end."""
    before = pooling.stats("default")
    for _ in range(10):
        in_thread(one)
        eventually(lambda: (in_use(), pooling.stats("default").idle) == (0, 1))
    assert pooling.stats("default").opened - before.opened == 1
    assert pooling.stats("default").reclaimed == before.reclaimed


def test_the_end_of_a_thread_drops_a_connection_with_an_open_transaction(
    no_garbage_collection: None, observer: Observer
) -> None:
    def left_open() -> None:
        transaction.atomic().__enter__()
        add("left open")

    in_thread(left_open)
    eventually(lambda: in_use() == 0)
    eventually(lambda: observer.count() == 0)
    assert committed() == []
    Note.objects.create(text="the lock is gone")


def test_the_end_of_a_thread_undoes_a_begin_in_text(no_garbage_collection: None) -> None:
    """mysqlclient can't tell without asking: there the next taker rolls back."""

    def left_open() -> None:
        sql(BEGIN)
        add("left open")

    in_thread(left_open)
    eventually(lambda: in_use() == 0)
    add("in autocommit")
    assert committed() == ["in autocommit"]
    in_thread(lambda: add("again"))
    assert committed() == ["in autocommit", "again"]


def test_the_end_of_a_thread_undoes_autocommit_off(no_garbage_collection: None) -> None:
    def left_open() -> None:
        transaction.set_autocommit(False)
        add("left open")

    in_thread(left_open)
    eventually(lambda: in_use() == 0)
    add("in autocommit")
    assert committed() == ["in autocommit"]


def test_many_threads_share_few_connections(no_garbage_collection: None, observer: Observer) -> None:
    most = []

    def work() -> None:
        token()
        most.append(observer_count())

    def observer_count() -> int:
        return in_use() + pooling.stats("default").idle + pooling.stats("default").opening

    in_threads([work] * 60)
    assert max(most) <= 4
    eventually(lambda: in_use() == 0)
    assert observer.count() <= 4
    assert_whole()


def test_an_exception_that_ends_a_thread_loses_nothing(no_garbage_collection: None) -> None:
    def fail() -> None:
        one()
        raise ZeroDivisionError

    def fail_in_atomic() -> None:
        with transaction.atomic():
            add("never")
            raise ZeroDivisionError

    for _ in range(6):
        for function in (fail, fail_in_atomic):
            with pytest.raises(ZeroDivisionError):
                in_thread(function)
    # The tracebacks of what was raised refer to frames, not to the connection.
    eventually(lambda: in_use() == 0)
    assert committed() == []
    assert_whole()


def test_a_request_that_never_finishes_is_ended_by_its_thread(no_garbage_collection: None) -> None:
    def request() -> None:
        request_started()
        one()

    for _ in range(6):
        in_thread(request)
    eventually(lambda: in_use() == 0)
    assert_whole()


def test_a_request_whose_end_is_noticed_late_takes_nothing_from_the_next_one(
    no_garbage_collection: None,
) -> None:
    """As after a kill, on a connection that the server keeps alive: the traceback keeps the environ."""

    def killed() -> None:
        environ: dict[str, object] = {}
        environ["a cycle"] = environ
        signals.request_started.send(sender=None, environ=environ)
        one()

    def requests() -> None:
        killed()
        request_started()
        with contextlib.suppress(KeyError), transaction.atomic():
            add("before")
            gc.collect()
            add("after")
            raise KeyError
        request_finished()
        add("the next one")

    in_thread(requests)
    assert committed() == ["the next one"]


def test_a_thread_started_in_a_request_has_a_connection_of_its_own() -> None:
    request_started()
    with transaction.atomic():
        add("parent")
        number = server_id()

        def child() -> None:
            assert Note.objects.count() == 0
            assert server_id() != number

        in_thread(child)
        eventually(lambda: in_use() == 1)
        assert server_id() == number
    request_finished()
    assert in_use() == 0


@pytest.mark.only("gevent")
def test_a_killed_greenlet_gives_its_connection_back(no_garbage_collection: None) -> None:
    """It is killed between two statements: nothing was cut short, so the connection stays good."""
    import gevent
    import gevent.event

    opened = pooling.stats("default").opened
    for _ in range(6):
        ready = gevent.event.Event()

        def wait_after_a_statement(ready: gevent.event.Event = ready) -> None:
            request_started()
            one()
            ready.set()
            gevent.sleep(PATIENCE)

        greenlet = gevent.spawn(wait_after_a_statement)
        assert ready.wait(PATIENCE)
        assert in_use() == 1
        greenlet.kill()
        del greenlet
        eventually(lambda: (in_use(), pooling.stats("default").idle) == (0, 1))
    assert pooling.stats("default").opened - opened == 1


@pytest.mark.only("gevent")
def test_a_greenlet_killed_in_a_transaction_commits_nothing(
    no_garbage_collection: None, observer: Observer
) -> None:
    import gevent
    import gevent.event

    ready = gevent.event.Event()

    def wait_in_a_transaction() -> None:
        transaction.atomic().__enter__()
        add("never")
        ready.set()
        gevent.sleep(PATIENCE)

    greenlet = gevent.spawn(wait_in_a_transaction)
    assert ready.wait(PATIENCE)
    greenlet.kill()
    del greenlet
    eventually(lambda: in_use() == 0)
    eventually(lambda: observer.count() == 0)
    assert committed() == []


@pytest.mark.only("gevent")
def test_greenlets_that_are_never_joined_give_back_from_the_hub() -> None:
    import gevent

    for _ in range(30):
        gevent.spawn(one)
    eventually(lambda: pooling.stats("default").waiting == 0 and in_use() == 0)
    assert_whole()


# -- scope() ------------------------------------------------------------------------------------


def test_scope_gives_back_in_threads_that_never_end() -> None:
    def job() -> None:
        with pooling.scope():
            token()

    with ThreadPoolExecutor(6) as executor:
        for _ in range(3):
            list(executor.map(lambda _: job(), range(12)))
            assert in_use() == 0
        assert_whole()


def test_scope_is_a_decorator_that_can_be_entered_again() -> None:
    @pooling.scope()
    def countdown(number: int) -> int:
        one()
        return countdown(number - 1) if number else in_use()

    assert countdown(3) == 1
    assert in_use() == 0
    in_threads([lambda: countdown(2)] * 4)
    eventually(lambda: in_use() == 0)


def test_an_inner_scope_leaves_alone_what_was_taken_outside() -> None:
    with pooling.scope():
        number = server_id()
        with another_alias() as other:
            with pooling.scope():
                one(other)
                one()
                assert in_use(other) == 1
            assert in_use(other) == 0
            assert in_use() == 1
            assert server_id() == number
    assert in_use() == 0


def test_a_scope_that_ends_with_an_exception_gives_back() -> None:
    with pytest.raises(ZeroDivisionError), pooling.scope():
        one()
        raise ZeroDivisionError
    assert in_use() == 0


def test_a_scope_inside_of_atomic_keeps_the_transaction() -> None:
    with transaction.atomic():
        with pooling.scope():
            add("a")
        add("b")
        assert in_use() == 1
    assert committed() == ["a", "b"]


def test_a_transaction_left_open_inside_of_a_scope_is_rolled_back_at_its_end() -> None:
    with pooling.scope():
        transaction.atomic().__enter__()
        add("left open")
    assert in_use() == 0
    assert committed() == []
    add("in autocommit")
    assert committed() == ["in autocommit"]


def test_autocommit_switched_off_inside_of_a_scope_is_on_again_after_it() -> None:
    with pooling.scope():
        transaction.set_autocommit(False)
        add("left open")
    assert in_use() == 0
    assert committed() == []
    add("in autocommit")
    assert committed() == ["in autocommit"]


# -- release() ------------------------------------------------------------------------------------


def test_release_gives_back_now_and_the_next_statement_takes_again() -> None:
    with another_alias() as other:
        request_started()
        one()
        one(other)
        pooling.release("default")
        assert (in_use(), in_use(other)) == (0, 1)
        one()
        pooling.release()
        assert (in_use(), in_use(other)) == (0, 0)
        pooling.release()
        token()
        request_finished()
        assert in_use() == 0


def test_release_in_a_transaction_is_refused_and_nothing_is_released() -> None:
    with another_alias() as other:
        one(other)
        with transaction.atomic():
            add("a")
            with pytest.raises(TransactionManagementError, match="default"):
                pooling.release()
            assert (in_use(), in_use(other)) == (1, 1)
            pooling.release(other)
            assert (in_use(), in_use(other)) == (1, 0)
        assert committed() == ["a"]
        pooling.release()
        assert in_use() == 0


def test_release_with_autocommit_switched_off_is_refused() -> None:
    transaction.set_autocommit(False)
    add("a")
    with pytest.raises(TransactionManagementError):
        pooling.release()
    transaction.commit()
    transaction.set_autocommit(True)
    pooling.release()
    assert committed() == ["a"]


@pytest.mark.only("pymysql", "psycopg", "psycopg2", "sqlite3")
def test_release_after_a_begin_in_text_is_refused() -> None:
    """Only mysqlclient can't tell without asking the server."""
    sql(BEGIN)
    add("a")
    with pytest.raises(TransactionManagementError):
        pooling.release()
    sql("COMMIT")
    pooling.release()
    assert committed() == ["a"]


def test_release_with_autocommit_off_in_settings_gives_back_what_was_committed() -> None:
    with another_alias(AUTOCOMMIT=False) as other:
        Note.objects.using(other).create(text="a")
        with pytest.raises(TransactionManagementError):
            pooling.release(other)
        transaction.commit(using=other)
        assert committed() == ["a"]


def test_release_leaves_alone_what_other_threads_hold() -> None:
    with held(2):
        one()
        pooling.release()
        assert in_use() == 2


@pytest.mark.parametrize("call", [pooling.release, pooling.recycle, pooling.close_all, pooling.stats])
def test_an_unknown_alias_is_djangos_error(call: object) -> None:
    with pytest.raises(ConnectionDoesNotExist, match="nowhere"):
        call("nowhere")  # type: ignore[operator]


# -- close_all() and recycle() ----------------------------------------------------------------------


def test_close_all_closes_idle_ones_at_once(observer: Observer) -> None:
    assert_whole()
    # The housekeeper may be closing one of them at this moment.
    assert pooling.close_all(timeout=PATIENCE) is True
    eventually(lambda: observer.count() == 0)
    assert pooling.stats("default").idle == 0
    token()


def test_close_all_does_not_wait_for_its_caller() -> None:
    number = server_id()
    assert pooling.close_all(timeout=PATIENCE) is True
    assert connection.vendor == "sqlite" or server_id() == number
    connection.close()
    assert pooling.stats("default").idle == 0


def test_close_all_waits_for_others() -> None:
    with held(1) as let_go:
        assert pooling.close_all("default") is False
        timer = threading.Timer(0.05, let_go)
        timer.start()
        assert pooling.close_all("default", timeout=PATIENCE) is True
        assert in_use() == 0
        timer.join(PATIENCE)
    assert pooling.stats("default").idle == 0


def test_connections_taken_after_close_all_stay() -> None:
    assert pooling.close_all(timeout=PATIENCE) is True
    opened = pooling.stats("default").opened
    one()
    connection.close()
    in_thread(one)
    assert pooling.stats("default").opened - opened == 1
    eventually(lambda: pooling.stats("default").idle == 1)


def test_recycle_replaces_every_connection(observer: Observer) -> None:
    assert_whole()
    before = pooling.stats("default")
    with held(1):
        pooling.recycle()
        assert pooling.stats("default").idle == 0
        eventually(lambda: in_use() == 1)
    eventually(lambda: in_use() == 0)
    assert pooling.stats("default").idle == 0
    eventually(lambda: observer.count() == 0)
    assert_whole()
    assert pooling.stats("default").opened - before.opened == 4


def test_recycle_of_one_alias_leaves_the_others() -> None:
    with another_alias() as other:
        one()
        one(other)
        connections.close_all()
        pooling.recycle(other)
        assert pooling.stats("default").idle == 1
        assert pooling.stats(other).idle == 0


# -- nobody -------------------------------------------------------------------------------------------


def test_a_wrapper_that_its_user_drops_is_reclaimed_by_the_garbage_collector() -> None:
    reclaimed = pooling.stats("default").reclaimed

    def leak() -> None:
        copy = connection.copy()
        with copy.cursor() as cursor:
            cursor.execute("SELECT 1")
        assert in_use() == 1

    for _ in range(3):
        leak()
        gc.collect()
        assert in_use() == 0
    assert pooling.stats("default").reclaimed - reclaimed == 3
    assert_whole()
