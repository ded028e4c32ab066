"""gevent.Timeout and kills, at every point where a greenlet can be: no slot lost, no result mixed up."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections, transaction

from django_db_pooling import pooling
from tests.behaviour.conftest import (
    BEGIN,
    MYSQL,
    PATIENCE,
    another_alias,
    assert_whole,
    committed,
    eventually,
    held,
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

# psycopg warns of each named cursor that was never closed, Python of generators interrupted at their end.
pytestmark = [
    pytest.mark.only("gevent"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# mysqlclient never lets go of the thread, SQLite has nothing to wait for but the pool.
cooperative = pytest.mark.only("pymysql", "psycopg", "psycopg2")
MOST_SWITCHES = 200


def gevent() -> Any:
    import gevent

    return gevent


def add(text: str, using: str = "default") -> None:
    Note.objects.using(using).create(text=text)


def in_use(alias: str = "default") -> int:
    return pooling.stats(alias).in_use


def sleeping_statement(seconds: int = 20) -> str:
    return f"SELECT SLEEP({seconds})" if MYSQL else f"SELECT pg_sleep({seconds})"


def assert_whole_again(observer: Observer, using: str = "default") -> None:
    connections[using].close()
    eventually(lambda: in_use(using) == 0)
    assert_whole(using)
    if using != "default":
        connections["default"].close()
        assert pooling.close_all("default", timeout=PATIENCE)
    most = pooling.stats(using).max_outstanding
    assert most is not None
    # A server counts a connection that we have cut until it has read its end.
    eventually(lambda: observer.count() <= most)


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What a test drops is destroyed in that test."""
    yield
    gc.collect()


@pytest.fixture
def proxied() -> Iterator[tuple[str, TcpProxy]]:
    settings = connections.settings["default"]
    with (
        TcpProxy(settings["HOST"], int(settings["PORT"])) as proxy,
        another_alias(HOST=proxy.host, PORT=str(proxy.port)) as alias,
    ):
        yield alias, proxy


# -- waiting ------------------------------------------------------------------------------------


def test_a_timeout_while_waiting_for_a_connection(observer: Observer) -> None:
    with held(4):
        for _ in range(5):
            with pytest.raises(gevent().Timeout), gevent().Timeout(0.02):
                one()
        assert pooling.stats("default").waiting == 0
        assert in_use() == 4
    assert_whole_again(observer)


def test_a_kill_while_waiting_for_a_connection(observer: Observer) -> None:
    with held(4):
        waiters = [gevent().spawn(one) for _ in range(5)]
        eventually(lambda: pooling.stats("default").waiting == 5)
        gevent().killall(waiters)
        assert pooling.stats("default").waiting == 0
        assert in_use() == 4
    assert_whole_again(observer)


def test_a_kill_in_the_moment_in_which_the_connection_is_handed_over(observer: Observer) -> None:
    """The slot is on its way to a waiter that dies before it has run: it must be put back."""
    for kills in range(1, 5):
        with held(4) as let_go:
            victims = [gevent().spawn(one) for _ in range(4)]
            eventually(lambda: pooling.stats("default").waiting == 4)
            let_go()
            for victim in victims[:kills]:
                victim.kill(block=False)
            gevent().joinall(victims, timeout=PATIENCE)
        assert_whole_again(observer)


def test_waiters_behind_a_killed_one_are_served() -> None:
    with held(4) as let_go:
        victim = gevent().spawn(one)
        eventually(lambda: pooling.stats("default").waiting == 1)
        heirs = [gevent().spawn(one) for _ in range(3)]
        eventually(lambda: pooling.stats("default").waiting == 4)
        victim.kill()
        let_go()
        gevent().joinall(heirs, timeout=PATIENCE)
        assert [heir.value for heir in heirs] == [1, 1, 1]


# -- connecting -----------------------------------------------------------------------------------


@cooperative
@pytest.mark.parametrize("how", ["timeout", "kill"])
def test_interrupted_while_connecting(how: str, proxied: tuple[str, TcpProxy], observer: Observer) -> None:
    alias, proxy = proxied
    proxy.deaf()
    for _ in range(3):
        victims = [gevent().spawn(one, alias) for _ in range(6)]
        eventually(lambda: pooling.stats(alias).opening == 2)
        if how == "kill":
            gevent().killall(victims)
        else:
            for victim in victims:
                victim.kill(gevent().Timeout, block=False)
            gevent().joinall(victims, timeout=PATIENCE)
        eventually(lambda: (pooling.stats(alias).opening, pooling.stats(alias).waiting) == (0, 0))
        assert in_use(alias) == 0
    proxy.resume()
    token(alias)
    assert_whole_again(observer, alias)


@cooperative
def test_a_timeout_around_connecting_leaves_the_wrapper_usable(
    proxied: tuple[str, TcpProxy], observer: Observer
) -> None:
    alias, proxy = proxied
    proxy.deaf()
    request_started()
    with pytest.raises(gevent().Timeout), gevent().Timeout(0.05):
        one(alias)
    assert connections[alias].connection is None
    proxy.resume()
    token(alias)
    request_finished()
    assert_whole_again(observer, alias)


# -- executing and fetching -----------------------------------------------------------------------------


@cooperative
def test_a_timeout_while_executing_the_next_statement_gets_its_own_result(observer: Observer) -> None:
    request_started()
    for _ in range(6):
        number = server_id()
        with pytest.raises(gevent().Timeout), gevent().Timeout(0.03):
            sql(sleeping_statement())
        assert in_use() == 0
        token()
        assert server_id() != number
    request_finished()
    observer.kill()
    eventually(lambda: observer.count() == 0)
    assert_whole_again(observer)


@cooperative
def test_a_statement_that_is_answered_too_late_answers_nobody_else(
    proxied: tuple[str, TcpProxy], observer: Observer
) -> None:
    """The answer is on its way when the statement is given up."""
    alias, proxy = proxied
    request_started()
    for _ in range(4):
        one(alias)
        proxy.delay(0.05)
        with pytest.raises(gevent().Timeout), gevent().Timeout(0.02):
            sql("SELECT 'too late'", using=alias)
        proxy.resume()
        token(alias)
    request_finished()
    assert_whole_again(observer, alias)


@cooperative
def test_a_timeout_inside_atomic_fails_the_rest_of_it(observer: Observer) -> None:
    request_started()
    with pytest.raises(gevent().Timeout), transaction.atomic():
        add("never")
        with gevent().Timeout(0.03):
            sql(sleeping_statement())
    assert in_use() == 0
    add("after")
    assert committed() == ["after"]
    request_finished()
    observer.kill()
    eventually(lambda: observer.count() == 0)
    assert_whole_again(observer)


@cooperative
def test_a_timeout_caught_inside_atomic_commits_nothing(observer: Observer) -> None:
    request_started()
    try:
        with transaction.atomic():
            add("never")
            with gevent().Timeout(0.03, False):
                sql(sleeping_statement())
            add("on a new connection")
    except Exception as error:
        assert not isinstance(error, AssertionError)
    assert committed() == []
    request_finished()
    observer.kill()
    eventually(lambda: observer.count() == 0)
    assert_whole_again(observer)


@cooperative
def test_a_kill_while_executing_in_a_transaction_commits_nothing(observer: Observer) -> None:
    def victim() -> None:
        request_started()
        with transaction.atomic():
            add("never")
            sql(sleeping_statement())

    for _ in range(5):
        greenlet = gevent().spawn(victim)
        eventually(lambda: in_use() == 1)
        gevent().sleep(0)
        greenlet.kill()
        eventually(lambda: in_use() == 0)
    assert committed() == []
    observer.kill()
    eventually(lambda: observer.count() == 0)
    assert_whole_again(observer)


@cooperative
def test_interrupted_while_fetching(proxied: tuple[str, TcpProxy], observer: Observer) -> None:
    """PostgreSQL: in the middle of a named cursor's portal. PyMySQL: of a result that it doesn't store."""
    Note.objects.bulk_create([Note(text="x" * 90) for _ in range(3000)])
    alias, proxy = proxied
    if MYSQL:
        from pymysql.cursors import SSCursor

        connections.settings[alias]["OPTIONS"] = {"cursorclass": SSCursor}
    for _ in range(3):
        request_started()
        notes = Note.objects.using(alias).values_list("text").iterator(chunk_size=10)
        next(notes)
        proxy.delay(PATIENCE)
        with pytest.raises(gevent().Timeout), gevent().Timeout(0.05):
            for _ in notes:
                pass
        proxy.resume()
        token(alias)
        request_finished()
        assert in_use(alias) == 0
    del notes
    assert_whole_again(observer, alias)


@cooperative
def test_interrupted_while_closing_a_cursor_the_request_goes_on(
    proxied: tuple[str, TcpProxy], observer: Observer
) -> None:
    """Closing talks to the server where it knows the cursor, or has more rows for it."""
    Note.objects.bulk_create([Note(text="x" * 90) for _ in range(3000)])
    alias, proxy = proxied
    if MYSQL:
        from pymysql.cursors import SSCursor

        connections.settings[alias]["OPTIONS"] = {"cursorclass": SSCursor}
    for _ in range(3):
        request_started()
        cursor = connections[alias].chunked_cursor()
        cursor.execute("SELECT text FROM behaviour_note")
        assert cursor.fetchmany(10)
        proxy.delay(PATIENCE)
        with pytest.raises(gevent().Timeout), gevent().Timeout(0.05):
            cursor.close()
        proxy.resume()
        assert in_use(alias) == 0
        token(alias)
        request_finished()
    assert_whole_again(observer, alias)


# -- every suspension point ---------------------------------------------------------------------------


class Interruption:
    """Throws an error into a greenlet at its n-th switch to the hub, counted from 0."""

    def __init__(self, number: int, error: BaseException) -> None:
        self.number = number
        self.error = error
        self.happened = False
        self.seen = 0
        self.victim: Any = None

    def run(self, function: Callable[[], None]) -> None:
        import greenlet

        self.victim = gevent().Greenlet(self.work, function)
        tracer = greenlet.settrace(self.trace)
        try:
            self.victim.start()
            self.victim.join(PATIENCE)
            assert self.victim.dead, "the victim hangs"
        finally:
            greenlet.settrace(tracer)
        if isinstance(self.victim.value, BaseException):
            raise self.victim.value
        # No reference is left to frames, and to what they were about to open.
        self.error.__traceback__ = None
        self.victim = None

    def work(self, function: Callable[[], None]) -> BaseException | None:
        try:
            function()
        except BaseException as error:
            # What was thrown may come out as something else, or chained to something else.
            return None if self.happened else error
        return None

    def trace(self, event: str, args: Any) -> None:
        if event == "switch" and args[0] is self.victim and not self.happened:
            if self.seen == self.number:
                self.happened = True
                gevent().get_hub().loop.run_callback(self.victim.throw, self.error)
            self.seen += 1


def atomic_request(finish: bool, using: str) -> None:
    request_started()
    try:
        with transaction.atomic(using=using):
            add("a", using)
            token(using)
            add("b", using)
        token(using)
    finally:
        if finish:
            request_finished()


def request_left_open(finish: bool, using: str) -> None:
    request_started()
    try:
        transaction.set_autocommit(False, using=using)
        add("never", using)
    finally:
        if finish:
            request_finished()


def request_with_begin_in_text(finish: bool, using: str) -> None:
    request_started()
    try:
        sql(BEGIN, using=using)
        add("never", using)
    finally:
        if finish:
            request_finished()


def rolled_back_request(finish: bool, using: str) -> None:
    request_started()
    try:
        with transaction.atomic(using=using):
            add("never", using)
            with transaction.atomic(using=using):
                add("never", using)
            transaction.set_rollback(True, using=using)
        token(using)
    finally:
        if finish:
            request_finished()


def iterating_request(finish: bool, using: str) -> None:
    request_started()
    try:
        for _ in Note.objects.using(using).iterator(chunk_size=1):
            pass
        next(Note.objects.using(using).iterator(chunk_size=1), None)
    finally:
        if finish:
            request_finished()


@cooperative
@pytest.mark.parametrize(
    ("request_of", "state", "finish", "error"),
    [
        (atomic_request, "cold", True, "Timeout"),
        (atomic_request, "cold", False, "GreenletExit"),
        (atomic_request, "checked", True, "Timeout"),
        *[
            (request_of, "warm", finish, error)
            for request_of in (
                atomic_request,
                request_left_open,
                request_with_begin_in_text,
                rolled_back_request,
                iterating_request,
            )
            for finish, error in ((True, "Timeout"), (False, "GreenletExit"))
        ],
    ],
)
def test_interrupted_at_each_suspension_point_a_request_is_all_or_nothing(
    request_of: Callable[[bool, str], None],
    state: str,
    finish: bool,
    error: str,
    proxied: tuple[str, TcpProxy],
    observer: Observer,
) -> None:
    """The proxy is a greenlet, too: no answer is there before the request has let others run.

    cold: it connects; warm: it finds an idle connection; checked: which it pings first. A generator
    that is interrupted while it is being collected can't pass the exception on: Python prints it.
    """
    alias, _ = proxied
    connections.settings[alias]["CONN_HEALTH_CHECKS"] = state == "checked"
    if request_of is iterating_request:
        Note.objects.bulk_create([Note(text="x"), Note(text="y")])
    for number in range(MOST_SWITCHES):
        if state == "cold":
            pooling.close_all(alias)
        else:
            one(alias)
            connections[alias].close()
        before = len(committed())
        interruption = Interruption(number, getattr(gevent(), error)())
        interruption.run(lambda: request_of(finish, alias))
        eventually(lambda: in_use(alias) == 0 and pooling.stats(alias).opening == 0)
        assert pooling.stats(alias).waiting == 0
        # A commit that was cut short may be under way on the server still.
        assert committed()[before:] in ([], ["a", "b"])
        token(alias)
        connections[alias].close()
        if not interruption.happened:
            break
    else:
        raise AssertionError(f"more than {MOST_SWITCHES} switches")
    assert number >= 2, "hardly anything was interrupted"
    assert committed()[before:] == (["a", "b"] if request_of is atomic_request else [])
    assert_whole_again(observer, alias)


def test_kills_at_random_moments_of_many_requests(observer: Observer) -> None:
    """Every request is killed after its own number of switches, while the others go on."""
    gevent_ = gevent()

    def request(number: int) -> None:
        with gevent_.Timeout(0.0007 * (number % 40) + 0.0001, False):
            request_started()
            with transaction.atomic():
                sql("SELECT 1")
                gevent_.sleep(0)
                token()
            token()
            request_finished()

    for _ in range(3):
        greenlets = [gevent_.spawn(request, number) for number in range(80)]
        gevent_.joinall(greenlets, timeout=PATIENCE * 3)
        for greenlet in greenlets:
            assert greenlet.ready(), "a greenlet hangs"
            if greenlet.exception is not None:
                raise greenlet.exception
    del greenlets
    assert_whole_again(observer)
