"""A statement that is given up is ended at the server, too, and its place counts until then."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from django.db import Error, OperationalError, connections, transaction

from django_db_pooling import conf, pooling
from django_db_pooling.pool import ending as ending_module
from django_db_pooling.pool import journal
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    GEVENT,
    MYSQL,
    PATIENCE,
    another_alias,
    assert_whole,
    eventually,
    in_threads,
    one,
    plain,
    request_finished,
    request_started,
    server_id,
    sql,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import DRIVER, Observer
from tests.concurrency import in_child
from tests.proxy import TcpProxy

pytestmark = pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2")


def interruptible(test: Callable[..., Any]) -> Any:
    """Where users can be interrupted while they wait for the server."""
    return pytest.mark.never("psycopg2", "threads")(pytest.mark.only("pymysql", "psycopg", "psycopg2")(test))


SLEEPING = "SELECT SLEEP(30)" if MYSQL else "SELECT pg_sleep(30)"
# That this session, by its number, executes something.
RUNNING = "SELECT 1 FROM pg_stat_activity WHERE pid = {} AND state = 'active'"
HELPERS = (
    "SELECT COUNT(*) FROM information_schema.processlist "
    "WHERE db IS NULL AND id <> CONNECTION_ID() AND user = SUBSTRING_INDEX(USER(), '@', 1)"
)


class Watch:
    """The most sessions that the server had at once in the test database, and of our user elsewhere: those
    through which others are ended.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._over = threading.Event()
        self.most = self.helpers = 0

    def _run(self) -> None:
        while not self._over.wait(0.003):
            self.most = max(self.most, self._observer.count())
            if MYSQL:
                self.helpers = max(self.helpers, self._observer.rows(HELPERS)[0][0])

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._over.set()
        self._thread.join(PATIENCE)


@contextmanager
def locked(note: Note) -> Iterator[None]:
    """A row that somebody else has locked."""
    with plain() as wrapper, transaction_of(wrapper), wrapper.cursor() as cursor:
        cursor.execute("UPDATE behaviour_note SET text = 'theirs' WHERE id = %s", [note.pk])
        yield


@contextmanager
def transaction_of(wrapper: Any) -> Iterator[None]:
    wrapper.set_autocommit(False)
    try:
        yield
    finally:
        wrapper.rollback()


def ending(using: str = "default") -> int:
    return pooling.stats(using).ending


def abandoned(using: str = "default") -> int:
    return pooling.stats(using).abandoned


class GivenUp(Exception):
    """As Celery's SoftTimeLimitExceeded."""


def give_up(statement: str, *params: Any, using: str = "default", after: float = 0.3) -> None:
    """Execute it, and be interrupted meanwhile: by gevent.Timeout or a signal's handler."""
    with pytest.raises(GivenUp), interrupted(after):
        sql(statement, *params, using=using)


@contextmanager
def interrupted(after: float) -> Iterator[None]:
    if GEVENT:
        import gevent

        with gevent.Timeout(after, GivenUp):
            yield
        return

    def strike(number: int, frame: object) -> None:
        raise GivenUp

    before = signal.signal(signal.SIGALRM, strike)
    remaining, _ = signal.setitimer(signal.ITIMER_REAL, after)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, remaining)


@pytest.fixture(autouse=True)
def nothing_is_lost() -> Iterator[None]:
    yield
    connections["default"].close()
    assert_whole()


@interruptible
@pytest.mark.only("gevent")
def test_fifty_timeouts_on_a_locked_row_leave_no_session_over_the_limit(observer: Observer) -> None:
    import gevent

    pooling.set_pool_size(5, max_outstanding=5, timeout=PATIENCE)
    note = Note.objects.create(text="ours")
    connections["default"].close()
    before = abandoned()
    served = []

    def client() -> None:
        for _ in range(10):
            request_started()
            with suppress(gevent.Timeout), gevent.Timeout(0.5), transaction.atomic():
                Note.objects.filter(pk=note.pk).update(text="never")
            # Another request.
            request_started()
            served.append(one())
            request_finished()

    # And the one that has locked the row.
    with locked(note), Watch(observer) as watch:
        in_threads([client] * 5)
    assert len(served) == 50
    # One more: that which has locked the row. PostgreSQL's cancel requests are no sessions, psycopg2's are.
    assert watch.most <= 5 + 1 + (2 if DRIVER == "psycopg2" else 0)
    # One at a time; MariaDB closes a connection before it takes it off its list.
    assert watch.helpers <= 2
    assert abandoned() - before == 50
    pooling.close_all()
    eventually(lambda: observer.count() == 0)
    eventually(lambda: (pooling.stats("default").in_use, ending()) == (0, 0))
    note.refresh_from_db()
    assert note.text == "ours"


@interruptible
def test_what_is_given_up_is_gone_at_once_with_its_locks(observer: Observer) -> None:
    """From a signal's handler, too. PostgreSQL would go on to the end, MariaDB for five seconds."""
    note = Note.objects.create(text="ours")
    before = abandoned()
    with suppress(Error), transaction.atomic():
        Note.objects.filter(pk=note.pk).update(text="never")
        number = server_id()
        give_up(SLEEPING)
    stats = pooling.stats("default")
    assert (stats.in_use, stats.abandoned - before) == (0, 1)
    # Its place counts for a moment, and isn't anybody's.
    assert stats.free == 4 - stats.ending
    Note.objects.filter(pk=note.pk).update(text="the next one's")
    eventually(lambda: number not in observer.ids())
    eventually(lambda: ending() == 0)
    assert server_id() != number


@interruptible
def test_a_waiter_gets_the_place_when_the_statement_has_ended(observer: Observer) -> None:
    pooling.set_pool_size(1, max_outstanding=1, timeout=PATIENCE)
    one()
    number = server_id()
    give_up(SLEEPING)
    began = time.monotonic()
    assert server_id() != number
    assert time.monotonic() - began < 1
    assert observer.count() == 1


@pytest.mark.only("pymysql", "mysqlclient")
@pytest.mark.parametrize("options", [{}, {"ssl": {"cipher": "ALL"}}], ids=["as it comes", "TLS"])
def test_a_statement_that_is_not_answered_within_read_timeout(
    observer: Observer, options: dict[str, Any]
) -> None:
    """The driver gives it up, and not its user. mysqlclient uses TLS when it is told to."""
    with another_alias(OPTIONS={"read_timeout": 1, **options}) as alias:
        if options:
            assert sql("SHOW STATUS LIKE 'Ssl_version'", using=alias) == [("Ssl_version", "TLSv1.3")]
        number = server_id(alias)
        with pytest.raises(OperationalError):
            sql(SLEEPING, using=alias)
        assert abandoned(alias) == 1
        eventually(lambda: number not in observer.ids())
        eventually(lambda: ending(alias) == 0)
        # What it has lost was a transaction, as far as mysqlclient knows.
        request_started()
        one(alias)


@pytest.mark.only("psycopg", "psycopg2")
@pytest.mark.only("threads")
def test_a_statement_of_another_thread_that_goes_on_when_its_connection_is_closed(observer: Observer) -> None:
    """As where a request is cancelled whose statement runs in a thread of its own."""
    wrapper = connections["default"]
    number = server_id()
    wrapper.inc_thread_sharing()
    failed: list[BaseException] = []

    def execute() -> None:
        try:
            with wrapper.cursor() as cursor:
                cursor.execute(SLEEPING)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=execute)
    thread.start()
    try:
        eventually(lambda: observer.rows(RUNNING.format(number)))
        before = abandoned()
        wrapper.close()
        eventually(lambda: number not in observer.ids())
        thread.join(1)
        assert failed
        assert abandoned() - before == 1
    finally:
        wrapper.dec_thread_sharing()
        thread.join(PATIENCE)


def test_what_is_at_rest_or_lost_is_not_given_up(observer: Observer) -> None:
    before = abandoned()
    one()
    observer.kill()
    with pytest.raises(Error):
        one()
    request_finished()
    request_started()
    one()
    request_finished()
    pooling.close_all()
    for _ in range(2):
        with suppress(Error):
            sql("SELECT no_such_column")
        connections["default"].close()
    assert (abandoned() - before, ending()) == (0, 0)


@interruptible
def test_it_can_be_switched_off(observer: Observer) -> None:
    with another_alias(POOL={"CANCEL": False, "SIZE": 1, "MAX_OUTSTANDING": 1}) as alias:
        number = server_id(alias)
        give_up(SLEEPING, using=alias)
        assert (abandoned(alias), ending(alias), pooling.stats(alias).in_use) == (1, 0, 0)
        assert server_id(alias) != number
        time.sleep(0.3)
        assert number in observer.ids()
        observer.kill()


@pytest.mark.only("pymysql")
@pytest.mark.parametrize("change", [{"server": ("elsewhere", 3306, 1)}, {"at": 0.0}])
def test_a_session_of_the_same_number_elsewhere_or_of_another_time_is_left_alone(
    change: dict[str, Any],
    observer: Observer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proxy may lead to another server; after a restart the numbers begin again."""
    monkeypatch.setattr(journal, "QUIET", 0)
    number = server_id()
    physical = connections["default"].connection
    at_first = physical.at_first_for_pool
    if "at" in change:
        change = {"at": time.monotonic() - 1e9}
    physical.at_first_for_pool = at_first._replace(session=at_first.session._replace(**change))
    give_up(SLEEPING)
    eventually(lambda: ending() == 0)
    assert number in observer.ids()
    eventually(lambda: any("another server answers" in record.message for record in caplog.records))
    observer.kill()


@pytest.mark.only("pymysql", "mysqlclient")
def test_the_log_says_when_it_is_not_known_which_session_it_is(
    observer: Observer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy is not asked, or greets with a number of its own, as MySQL Router does with 0."""
    monkeypatch.setattr(journal, "QUIET", 0)
    with another_alias(OPTIONS={"read_timeout": 1}, POOL={"PROXY": "session"}) as alias:
        number = server_id(alias)
        with pytest.raises(OperationalError):
            sql(SLEEPING, using=alias)
        assert abandoned(alias) == 1
        eventually(lambda: ending(alias) == 0)
        assert number in observer.ids()
        eventually(lambda: any("isn't known which session" in record.message for record in caplog.records))
        observer.kill()


@interruptible
def test_where_nobody_answers_the_place_is_free_all_the_same(observer: Observer) -> None:
    settings = connections.settings["default"]
    with (
        TcpProxy(settings["HOST"], int(settings["PORT"])) as proxy,
        another_alias(
            HOST=proxy.host, PORT=str(proxy.port), POOL={"SIZE": 1, "MAX_OUTSTANDING": 1, "TIMEOUT": 10}
        ) as alias,
    ):
        one(alias)
        with pytest.raises(GivenUp), interrupted(0.3):
            proxy.deaf()
            sql(SLEEPING, using=alias)
        assert ending(alias) == 1
        time.sleep(0.5)
        assert ending(alias) == 1
        eventually(lambda: ending(alias) == 0)
        assert len(registry.by_alias[alias]) == 0
        proxy.resume()
        one(alias)
    observer.kill()


@interruptible
def test_a_child_ends_nothing_of_its_parents(observer: Observer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is forked while the parent is at it."""
    number = server_id()
    monkeypatch.setattr(ending_module, "END_TIME", PATIENCE)

    def child() -> None:
        assert ending() == 0
        one()
        pool = registry.by_alias["default"]
        pool.maintain()
        connections["default"].close()
        assert (ending(), abandoned()) == (0, 0)

    with monkeypatch.context() as patch:
        patch.setattr(ending_module.Endings, "_start", lambda self: None)
        give_up(SLEEPING)
        assert ending() == 1
        in_child(child)
        assert (number in observer.ids(), ending()) == (True, 1)
    # The housekeeper finds it.
    eventually(lambda: number not in observer.ids())
    eventually(lambda: ending() == 0)


@pytest.mark.only("pymysql")
def test_no_password_is_said_when_ending_fails(
    caplog: pytest.LogCaptureFixture, observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "QUIET", 0)
    number = server_id()
    connections["default"].connection.password = b"was-changed"
    give_up(SLEEPING)
    eventually(lambda: ending() == 0)
    assert number in observer.ids()
    eventually(lambda: any("Access denied" in record.message for record in caplog.records))
    assert "was-changed" not in caplog.text
    observer.kill()


@pytest.mark.parametrize("value", [1, None, "no"])
def test_the_switch_is_true_or_false(value: object) -> None:
    [problem] = conf.problems("default", {"POOL": {"CANCEL": value}})
    assert problem.id == "django_db_pooling.E003"
    assert "True or False" in problem.hint
    assert not conf.limits_for("default", {"POOL": {"CANCEL": False}}).cancel
    assert conf.limits_for("default", {}).cancel
