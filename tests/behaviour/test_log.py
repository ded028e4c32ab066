"""What the log tells of a real server's troubles, and that no password is ever in it."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DatabaseError, InterfaceError, OperationalError, connection, connections, transaction
from django.db.backends.signals import connection_created

from django_db_pooling import log, pooling
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.owner import max_wait
from django_db_pooling.pool import journal
from django_db_pooling.process import housekeeper
from django_db_pooling.registry import registry
from django_db_pooling.workers.publish import Publisher
from tests.behaviour.conftest import (
    DRIVER,
    GEVENT,
    MYSQL,
    POSTGRESQL,
    another_alias,
    eventually,
    held,
    in_thread,
    in_threads,
    one,
    plain,
    request_finished,
    request_started,
    sql,
    token,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import Observer
from tests.servers import free_port

servers = pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2")
CANARY = "c4n4ry-7f3a"
# Where only notes may be taken.
SILENT = {"checkin", "discard", "reclaim", "_serve_waiters", "__del__", "abandon", "checkout"}


@pytest.fixture(autouse=True)
def quick_housekeeper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeper, "TICK", 0.02)


@pytest.fixture(autouse=True)
def verbose(quick_housekeeper: None, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG, "django_db_pooling")
    listener = Listener()
    log.logger.addHandler(listener)
    yield
    log.logger.removeHandler(listener)
    assert not listener.heard


class Listener(logging.Handler):
    """Hears what is said where nothing may be."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        import sys

        frame: Any = sys._getframe()
        while frame is not None:
            if "django_db_pooling" in frame.f_code.co_filename and frame.f_code.co_name in SILENT:
                self.heard.append(f"{frame.f_code.co_name}: {record.getMessage()}")
            frame = frame.f_back


def told(caplog: pytest.LogCaptureFixture, alias: str, event: str) -> list[dict[str, Any]]:
    return [
        vars(record)
        for record in list(caplog.records)
        if (vars(record).get("pool_alias"), vars(record).get("pool_event")) == (alias, event)
    ]


def only(caplog: pytest.LogCaptureFixture, alias: str, event: str) -> dict[str, Any]:
    eventually(lambda: told(caplog, alias, event))
    [record] = told(caplog, alias, event)
    return record


# -- what is told -----------------------------------------------------------------------------------


def test_a_pool_and_its_connections_come_and_go(caplog: pytest.LogCaptureFixture) -> None:
    with another_alias(POOL={"SIZE": 3, "MAX_OUTSTANDING": 5}) as alias:
        pooling.set_pool_size(3, max_outstanding=5, alias=alias)
        one(alias)
        connections[alias].close()
        assert only(caplog, alias, "created")["pool_max_outstanding"] == 5
        assert only(caplog, alias, "opened")["pool_seconds"] > 0
        pooling.set_pool_size(2, max_outstanding=4, alias=alias)
        assert only(caplog, alias, "resized")["pool_size"] == 2
        pooling.recycle(alias)
        assert only(caplog, alias, "recycled")["levelname"] == "INFO"
        closed = only(caplog, alias, "closed")
        assert closed["pool_reason"] == "recycled"
        assert closed["pool_connection"] == only(caplog, alias, "opened")["pool_connection"]


def test_connections_of_settings_that_have_changed_are_retired(caplog: pytest.LogCaptureFixture) -> None:
    with another_alias() as alias:
        one(alias)
        connections[alias].close()
        only(caplog, alias, "created")
        connections.settings[alias]["CONN_HEALTH_CHECKS"] = True
        in_thread(lambda: one(alias))
        assert only(caplog, alias, "retired")["levelname"] == "INFO"
        assert len(told(caplog, alias, "created")) == 1


def test_a_crowd_of_timeouts_is_one_line_and_a_number(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "QUIET", 2.0)
    with another_alias() as alias:
        pooling.set_pool_size(1, max_outstanding=1, timeout=0, alias=alias)

        def fail() -> None:
            with pytest.raises(PoolTimeout):
                one(alias)

        with held(1, alias):
            in_thread(fail)
            first = only(caplog, alias, "timeout")
            assert first["levelname"] == "WARNING"
            assert (first["pool_in_use"], first["pool_max_outstanding"]) == (1, 1)
            in_threads([fail] * 20)
        eventually(lambda: len(told(caplog, alias, "timeout")) == 2)
        assert told(caplog, alias, "timeout")[1]["pool_suppressed"] == 19


@servers
def test_an_outage_is_an_error_once_and_its_end_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    right = connections.settings["default"]["PORT"]
    with another_alias(PORT=str(free_port()), POOL={"CONNECT_RETRY": 0}) as alias:

        def fail() -> None:
            with pytest.raises(OperationalError):
                one(alias)

        for _ in range(3):
            in_threads([fail] * 4)
        begins = only(caplog, alias, "connect")
        assert begins["levelname"] == "ERROR"
        # As if it was there again, for the same pool.
        [pool] = registry.pools(alias)
        connections.settings[alias]["PORT"] = right
        pool.identities[0]._lasting["PORT"] = right
        token(alias)
        ends = only(caplog, alias, "connect_again")
        assert ends["levelname"] == "WARNING"
        assert 0 <= ends["pool_seconds"] < 60
        assert len(told(caplog, alias, "connect")) == 1


class SoftTimeLimit(Exception):
    """As Celery's, out of a signal handler."""


@pytest.mark.parametrize(
    "error",
    [SoftTimeLimit("30 s"), SynchronousOnlyOperation("in an event loop"), DatabaseError("of another thread")],
)
def test_an_error_that_is_not_the_servers_is_no_outage(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """It strikes while a connection is opened: the next caller opens one, and nothing is said."""

    def strike(**kwargs: Any) -> None:
        raise error

    with another_alias() as alias:
        connection_created.connect(strike)
        try:
            with pytest.raises(type(error)):
                one(alias)
        finally:
            connection_created.disconnect(strike)
        in_thread(lambda: token(alias))
        eventually(lambda: told(caplog, alias, "opened"))
        assert not told(caplog, alias, "connect")
        assert not told(caplog, alias, "connect_again")
        with held(4, alias), max_wait(0.1), pytest.raises(PoolTimeout) as caught:
            one(alias)
        assert "connect error" not in str(caught.value)


@servers
def test_a_failure_is_told_though_there_is_no_connection_to_look_after(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with another_alias(PASSWORD="wrong", USER="nobody") as alias:
        for _ in range(2):
            with pytest.raises(OperationalError):
                one(alias)
            # The housekeeper has gone by now.
            time.sleep(0.2)
        assert "nobody" in only(caplog, alias, "connect")["pool_error"]


@servers
def test_killed_ones_are_told_of(caplog: pytest.LogCaptureFixture, observer: Observer) -> None:
    with another_alias() as alias:
        pooling.set_pool_size(2, max_outstanding=4, timeout=5, alias=alias)
        with held(2, alias):
            pass
        eventually(lambda: pooling.stats(alias).idle == 2)
        observer.kill()
        eventually(lambda: observer.count() == 0)
        token(alias)
        assert only(caplog, alias, "dead")["levelname"] == "INFO"
        reasons = {record["pool_reason"] for record in told(caplog, alias, "closed")}
        assert reasons == {"broken"}
        observer.kill()
        with pytest.raises((OperationalError, InterfaceError)):
            one(alias)
        lost = only(caplog, alias, "lost")
        assert lost["levelname"] == "WARNING"
        assert "SELECT" not in lost["pool_error"]


def test_a_transaction_left_open_is_told_of_with_its_request(caplog: pytest.LogCaptureFixture) -> None:
    request_started()
    connection.set_autocommit(False)
    sql("INSERT INTO behaviour_note (text) VALUES ('left open')")
    request_finished()
    assert only(caplog, "default", "rolled_back")["pool_request"] == "GET /test"
    assert not Note.objects.filter(text="left open").exists()


def test_an_atomic_block_that_was_never_left_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    request_started()
    transaction.atomic().__enter__()
    Note.objects.create(text="never left")
    request_finished()
    assert only(caplog, "default", "atomic_left_open")["pool_request"] == "GET /test"
    time.sleep(0.1)
    assert not told(caplog, "default", "rolled_back")


def test_a_request_that_ends_as_it_should_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with held(1):
        pass
    time.sleep(0.1)
    caplog.clear()
    for _ in range(3):
        request_started()
        with transaction.atomic():
            Note.objects.create(text="fine")
        one()
        request_finished()
    time.sleep(0.1)
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG] == []


@servers
def test_a_minimum_that_cannot_be_opened_is_told_of_without_a_line_each_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with another_alias(PORT=str(free_port()), POOL={"MIN_SIZE": 1, "SIZE": 1, "CONNECT_RETRY": 0}) as alias:
        with pytest.raises(OperationalError):
            one(alias)
        only(caplog, alias, "min_size")
        time.sleep(0.5)
        assert len(told(caplog, alias, "min_size")) == 1
        connections.settings[alias]["POOL"] = {}


def test_a_lease_that_is_dropped_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with another_alias() as alias:
        one(alias)
        wrapper: Any = connections[alias]
        wrapper._lease = wrapper.connection = None
        gc.collect()
        assert only(caplog, alias, "reclaimed")["levelname"] == "WARNING"


# -- what is never told -------------------------------------------------------------------------------


@contextmanager
def canary() -> Iterator[str]:
    """A user of the server's whose password is easy to find."""
    name = f"canary_{DRIVER}_{'gevent' if GEVENT else 'threads'}"
    with plain() as wrapper, wrapper.cursor() as cursor:
        if MYSQL:
            cursor.execute(f"DROP USER IF EXISTS '{name}'@'%%'", [])
            cursor.execute(f"CREATE USER '{name}'@'%%' IDENTIFIED BY '{CANARY}'", [])
            cursor.execute(f"GRANT ALL ON *.* TO '{name}'@'%%'", [])
        else:
            cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{CANARY}'")
    try:
        yield name
    finally:
        with plain() as wrapper, wrapper.cursor() as cursor:
            cursor.execute(
                f"DROP USER '{name}'@'%%'" if MYSQL else f"DROP ROLE {name}", [] if MYSQL else None
            )


@servers
def test_no_password_whatever_goes_wrong(caplog: pytest.LogCaptureFixture, observer: Observer) -> None:
    said: list[str] = []

    def storm(alias: str) -> None:
        def work() -> None:
            # Its own exceptions, too, as far as they are ours.
            try:
                request_started()
                with suppress(DatabaseError, InterfaceError):
                    one(alias)
                token(alias)
            except PoolTimeout as error:
                said.extend((str(error), repr(error)))
            except (DatabaseError, InterfaceError):
                pass
            finally:
                request_finished()

        in_threads([work] * 8)

    def search(alias: str) -> None:
        for pool in registry.pools(alias):
            said.extend(
                map(repr, (pool, pool.identities, pool.limits, list(pool.journal.troubles), pool.snapshot()))
            )
            said.extend(f"{slot!r} {slot.holder} {slot.holder!r}" for slot in pool.slots.all())
            said.append(repr(pool.held()))
            pool.journal.write(is_last=True)
        said.append(repr(pooling.stats()))
        report = Publisher().report(registry.all_stats(), registry.by_alias, [])
        said.append(repr(report))

    pool = {"CONNECT_RETRY": 0.1, "TIMEOUT": 0.3, "LEAK_THRESHOLD": 0.05, "MIN_SIZE": 1}
    url = f"{'postgres' if POSTGRESQL else 'mysql'}://app:{CANARY}@db.example:1/x"
    if POSTGRESQL:
        options: dict[str, Any] = {"options": f"-c search_path='{CANARY}' -c no_such_setting='{url}'"}
    else:
        options = {"init_command": f"SET nonsense = '{url}'"}
    with canary() as user:
        wrong: list[dict[str, Any]] = [
            {},
            {"USER": "nobody"},
            {"PASSWORD": f"wrong-{CANARY}"},
            {"PORT": str(free_port())},
            {"HOST": "no-such-host.invalid"},
            {"NAME": url},
            {"HOST": url},
            {"OPTIONS": options},
        ]
        for changes in wrong:
            settings = {"USER": user, "PASSWORD": CANARY, "POOL": pool, **changes}
            with another_alias(**settings) as alias:
                pooling.set_pool_size(2, max_outstanding=2, timeout=0.3, alias=alias)
                storm(alias)
                if not changes:
                    with held(2, alias):
                        storm(alias)
                        eventually(lambda alias=alias: told(caplog, alias, "held"))
                        observer.kill()
                    storm(alias)
                search(alias)
                eventually(lambda alias=alias: pooling.stats(alias).in_use == 0)
    assert any("No connection from pool" in text for text in said)
    formatter = logging.Formatter()
    records = [record for record in caplog.records if record.name == "django_db_pooling"]
    assert {"connect", "timeout", "closed", "opened", "held"} <= {vars(one)["pool_event"] for one in records}
    for record in records:
        said.extend((formatter.format(record), repr(vars(record))))
    found = [text for text in said if CANARY in text or "SELECT" in text]
    assert not found, found[0]


def test_notes_and_writing_in_several_threads_lose_nothing(caplog: pytest.LogCaptureFixture) -> None:
    one_journal = journal.Journal("several")

    def take_notes() -> None:
        for number in range(200):
            one_journal.note("opened", connection=number, seconds=0.0)
            if not number % 50:
                time.sleep(0)

    done = threading.Event()

    def write() -> None:
        while not done.is_set() or one_journal.is_pending:
            one_journal.write()
            time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    in_threads([take_notes] * 4)
    done.set()
    writer.join(10)
    assert len(told(caplog, "several", "opened")) == 800
