"""patch() and unpatch(), fork, what is learned once, and what happens while nobody asks."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import Any

import pytest
from django.core import signals as django_signals
from django.db import connection, connections, transaction
from django.db.utils import ConnectionHandler

from django_db_pooling import drivers, pooling
from django_db_pooling.process import housekeeper, upkeep
from tests.behaviour.conftest import (
    BEGIN,
    MARIADB,
    MYSQL,
    another_alias,
    assert_whole,
    committed,
    eventually,
    held,
    in_thread,
    one,
    request_finished,
    request_started,
    server_id,
    sql,
    token,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import Observer
from tests.behaviour.test_errors import forget_overrides, in_process
from tests.concurrency import in_child

servers = pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2")


def in_use(alias: str = "default") -> int:
    return pooling.stats(alias).in_use


@pytest.fixture
def quick_housekeeper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeper, "TICK", 0.02)


# -- patch and unpatch ------------------------------------------------------------------------------


def test_patching_again_changes_nothing() -> None:
    before = [
        len(one_signal.receivers)
        for one_signal in (django_signals.request_started, django_signals.request_finished)
    ]
    wrapper = connections["default"]
    pooling.patch()
    pooling.patch()
    assert pooling.apply_patch is pooling.patch
    assert connections["default"] is wrapper
    assert before == [
        len(one_signal.receivers)
        for one_signal in (django_signals.request_started, django_signals.request_finished)
    ]
    request_started()
    one()
    request_finished()
    assert pooling.stats("default").idle == 1


def test_unpatch_takes_back_only_what_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracer may have wrapped either method since."""

    def theirs(self: object, initialized_only: bool = False) -> list[object]:
        return []

    try:
        with monkeypatch.context() as patch:
            patch.setattr(ConnectionHandler, "all", theirs)
            pooling.unpatch()
            assert ConnectionHandler.all is theirs
    finally:
        pooling.patch()


def test_after_unpatch_pooled_wrappers_go_on_and_new_ones_are_plain() -> None:
    request_started()
    one()
    pooling.unpatch()
    pooling.unpatch()
    try:
        one()
        assert in_use() == 1
        request_finished()
        assert in_use() == 0

        def plain() -> tuple[int, bool]:
            request_started()
            one()
            used = in_use()
            is_open = connection.connection is not None
            connection.close()
            return used, is_open

        assert in_thread(plain) == (0, True)
        token()
        assert in_use() == 1
        connection.close()
    finally:
        pooling.patch()
    in_thread(one)
    eventually(lambda: in_use() == 0)
    assert_whole()


def test_wrappers_that_were_used_before_patch_are_pooled_afterwards() -> None:
    told = in_process("""
import django; django.setup()
from django.db import connection
with connection.cursor() as cursor: cursor.execute("SELECT 1")
plain = connection.connection is not None
from django_db_pooling import pooling
pooling.patch()
with connection.cursor() as cursor:
    cursor.execute("SELECT 1")
    used = pooling.stats("default").in_use
stats = pooling.stats("default")
print(json.dumps([plain, used, stats.in_use, stats.idle]))
""")
    assert told == [True, 1, 0, 1]


def test_a_wrapper_in_a_transaction_is_left_alone_by_patch() -> None:
    told = in_process("""
import django; django.setup()
from django.db import connection, transaction
from django_db_pooling import pooling
with transaction.atomic():
    with connection.cursor() as cursor: cursor.execute("SELECT 1")
    physical = connection.connection
    pooling.patch()
    with connection.cursor() as cursor: cursor.execute("SELECT 1")
    print(json.dumps([connection.connection is physical, pooling.stats("default").in_use]))
""")
    assert told == [True, 0]


BEGINNINGS = {
    "atomic": ("block = transaction.atomic(); block.__enter__()", "block.__exit__(None, None, None)"),
    "set_autocommit": ("transaction.set_autocommit(False)", "transaction.commit()"),
    "SQL": (f"connection.cursor().execute({BEGIN!r})", "connection.cursor().execute('COMMIT')"),
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.never("mysqlclient", "threads")
@pytest.mark.never("mysqlclient", "gevent")
def test_a_transaction_that_patch_finds_open_ends_as_it_was_begun(beginning: str) -> None:
    """Its rows are there; from then on its wrapper is pooled. mysqlclient can't tell of a BEGIN in SQL."""
    begin, end = BEGINNINGS[beginning]
    told = in_process(f"""
import django; django.setup()
from django.db import connection, transaction
from django_db_pooling import pooling
from tests.behaviour.conftest import committed
from tests.behaviour.models import Note
{begin}
Note.objects.create(text="before")
physical = connection.connection
pooling.patch()
Note.objects.create(text="after")
same = connection.connection is physical and committed() == []
{end}
if not connection.get_autocommit():
    transaction.set_autocommit(True)
texts = committed()
transaction.atomic(Note.objects.count)()
stats = pooling.stats("default")
print(json.dumps([same, texts, stats.checkouts, stats.in_use + stats.idle]))
""")
    assert told == [True, ["before", "after"], 1, 1]


@pytest.mark.only("threads")
def test_a_project_that_is_set_up_in_a_running_event_loop_is_pooled() -> None:
    """There Django forbids to close a wrapper, and defining a model makes one."""
    told = in_process("""
import asyncio
settings.INSTALLED_APPS += ["django.contrib.contenttypes", "django_db_pooling"]
async def main():
    import django; django.setup()
    from django_db_pooling import pooling
    from tests.behaviour.models import Note
    return [await Note.objects.acount(), pooling.stats("default").checkouts]
print(json.dumps(asyncio.run(main())))
""")
    assert told == [0, 1]


def test_an_alias_without_a_database_is_left_alone() -> None:
    """As Django's documentation of several databases has it."""
    told = in_process("""
settings.DATABASES["shop"] = settings.DATABASES.pop("default")
settings.DATABASES["default"] = {}
settings.INSTALLED_APPS += ["django_db_pooling"]
import django; django.setup()
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, connections
from django_db_pooling import pooling
from tests.behaviour.models import Note
assert Note.objects.using("shop").count() == 0
try:
    connection.cursor()
except ImproperlyConfigured as error:
    words = str(error)
connections.close_all()
pooling.close_all()
ours = [check.id for check in run_checks() if "default" in str(check)]
print(json.dumps([list(pooling.stats()), words.startswith("settings.DATABASES is improperly"), ours]))
""")
    assert told == [["shop"], True, []]


@pytest.mark.parametrize("when", ["before", "after", "installed"])
def test_patch_works_before_and_after_setup_and_by_installed_apps(when: str) -> None:
    told = in_process(f"""
if {when == "installed"}:
    settings.INSTALLED_APPS += ["django_db_pooling"]
if {when == "before"}:
    from django_db_pooling import pooling
    pooling.set_pool_size(3)
    pooling.patch()
import django; django.setup()
from django_db_pooling import pooling
if {when == "after"}:
    pooling.patch()
from django.db import connection
with connection.cursor() as cursor: cursor.execute("SELECT 1")
connection.close()
print(json.dumps([pooling.stats("default").idle, connection.connection is None]))
""")
    assert told == [1, True]


@pytest.mark.only("gevent")
def test_django_imported_before_gevent_has_patched_has_wrappers_for_each_greenlet() -> None:
    """gunicorn --preload: Django's storage is made of a plain threading.local."""
    from tests.behaviour import test_errors

    prelude = test_errors.PRELUDE
    late = prelude.replace("if os.environ.get", "import django.db, asgiref.local\nif os.environ.get")
    assert late != prelude
    test_errors.PRELUDE = late
    try:
        told = in_process("""
import django; django.setup()
import gevent
from django.db import connections
from django_db_pooling import pooling
pooling.patch()
def work():
    wrapper = connections["default"]
    with wrapper.cursor() as cursor: cursor.execute("SELECT 1")
    gevent.sleep(0.05)
    return id(wrapper), wrapper
jobs = [gevent.spawn(work) for _ in range(3)]
gevent.joinall(jobs, raise_error=True)
print(json.dumps(len({job.value[0] for job in jobs})))
""")
    finally:
        test_errors.PRELUDE = prelude
    assert told == 3


# -- fork -----------------------------------------------------------------------------------------------


def forget_wrapper() -> None:
    with suppress(AttributeError):
        del connections["default"]


def test_a_forked_child_opens_its_own_and_the_parents_connections_go_on(observer: Observer) -> None:
    """One is idle and one in a transaction when the process forks."""
    with held(1):
        one()
    connection.close()
    eventually(lambda: in_use() == 0)
    with transaction.atomic():
        Note.objects.create(text="before the fork")
        number = server_id()

        def child() -> list[Any]:
            before = [pooling.stats("default").in_use, pooling.stats("default").idle]
            forget_wrapper()
            mine = None if connection.vendor == "sqlite" else server_id()
            token()
            connection.close()
            return [*before, mine, pooling.stats("default").idle]

        in_use_there, idle_there, theirs, idle_after = in_child(child)
        assert (in_use_there, idle_there, idle_after) == (0, 0, 1)
        assert theirs != number
        if connection.vendor != "sqlite":
            assert server_id() == number
        if connection.vendor != "sqlite":
            Note.objects.create(text="after the fork")
    token()
    connection.close()
    assert "before the fork" in committed()
    assert_whole()


def test_a_child_forked_inside_of_atomic_cannot_go_on_with_the_parents_transaction() -> None:
    with transaction.atomic():
        Note.objects.create(text="parent")

        def child() -> str:
            try:
                one()
            except Exception as error:
                return type(error).__name__
            return "went on"

        assert in_child(child) != "went on"
        assert in_use() == 1
    assert committed() == ["parent"]


@servers
def test_a_child_that_drops_and_collects_everything_does_not_disturb_the_parent() -> None:
    import gc

    request_started()
    number = server_id()
    with held(2):

        def child() -> None:
            forget_wrapper()
            gc.collect()
            token()
            connections.close_all()
            pooling.close_all()
            gc.collect()

        in_child(child)
        assert server_id() == number
    request_finished()
    assert_whole()


def test_children_of_children_work() -> None:
    one()

    def grandchild() -> int:
        return one()

    def child() -> int:
        one()
        answer: int = in_child(grandchild)
        token()
        return answer

    assert in_child(child) == 1
    token()


# -- learned once -----------------------------------------------------------------------------------------


@pytest.mark.only("pymysql", "mysqlclient")
def test_a_second_wrapper_does_not_ask_the_server_again_what_the_first_has_learned() -> None:
    """Django asks for version, sql_mode and more, once for each wrapper: that is, for each request."""
    one()
    assert connection.mysql_version
    connection.close()
    asked: list[str] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        asked.append(sql)
        return execute(sql, params, many, context)

    def request() -> None:
        with connection.execute_wrapper(note):
            Note.objects.create(text="x")
            assert connection.mysql_version
            assert connection.sql_mode is not None

    with held(1):
        in_thread(request)
        in_thread(request)
    assert [statement for statement in asked if "@@" in statement or "VERSION" in statement] == []


@pytest.mark.only("pymysql")
def test_the_tls_context_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import ssl

    built = []
    create = ssl.create_default_context

    def spy(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        built.append(1)
        return create(*args, **kwargs)

    one()
    monkeypatch.setattr(ssl, "create_default_context", spy)
    pooling.set_pool_size(4, max_outstanding=4)
    connection.close()
    pooling.close_all()
    assert_whole()
    assert pooling.stats("default").idle == 4
    assert built == []


@pytest.mark.only("pymysql")
def test_a_changed_certificate_file_makes_a_new_tls_context(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    import ssl
    from pathlib import Path

    system = ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
    if not os.path.exists(system):
        pytest.skip("no certificates on this machine")
    authority = Path(tmp_path) / "ca.pem"
    authority.write_bytes(Path(system).read_bytes())
    built = []
    create = ssl.create_default_context

    def spy(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        built.append(1)
        return create(*args, **kwargs)

    monkeypatch.setattr(ssl, "create_default_context", spy)
    import pymysql.connections

    make = pymysql.connections.Connection(defer_connect=True)._create_ssl_ctx
    options = {"ca": str(authority), "check_hostname": False}
    first = make(dict(options))
    assert make(dict(options)) is first
    assert len(built) == 1
    time_of = os.stat(authority).st_mtime_ns
    os.utime(authority, ns=(time_of + 10**9, time_of + 10**9))
    assert make(dict(options)) is not first
    assert len(built) == 2
    assert make({**options, "check_hostname": True}) is not first


# -- while nobody asks ----------------------------------------------------------------------


def test_min_size_is_opened_in_advance_and_refilled(
    quick_housekeeper: None, monkeypatch: pytest.MonkeyPatch, observer: Observer
) -> None:
    forget_overrides()
    with another_alias(POOL={"SIZE": 4, "MAX_OUTSTANDING": 4, "MIN_SIZE": 3}) as alias:
        one(alias)
        connections[alias].close()
        eventually(lambda: pooling.stats(alias).idle == 3)
        assert observer.count() == 3
        pooling.recycle(alias)
        eventually(lambda: pooling.stats(alias).idle == 3)
        opened = pooling.stats(alias).opened
        with held(3, alias):
            assert pooling.stats(alias).opened == opened
        token(alias)


@servers
def test_min_size_is_refilled_after_the_server_has_killed_them(
    quick_housekeeper: None, observer: Observer
) -> None:
    forget_overrides()
    with another_alias(POOL={"SIZE": 4, "MAX_OUTSTANDING": 4, "MIN_SIZE": 2}) as alias:
        one(alias)
        connections[alias].close()
        eventually(lambda: pooling.stats(alias).idle == 2)
        ids = set(observer.ids())
        observer.kill()
        eventually(lambda: pooling.stats(alias).idle == 2 and len(set(observer.ids()) - ids) == 2)
        token(alias)


def test_a_process_that_has_said_goodbye_opens_none_until_it_needs_one(quick_housekeeper: None) -> None:
    """Celery's workers live on for a moment, in which the housekeeper would see to MIN_SIZE."""
    forget_overrides()
    with another_alias(POOL={"MIN_SIZE": 1}) as alias:

        def idle() -> int:
            return pooling.stats(alias).idle

        def ends() -> int:
            in_thread(lambda: token(alias))
            eventually(lambda: idle() == 1)
            upkeep.end()
            time.sleep(0.3)
            left = idle()
            in_thread(lambda: token(alias))
            pooling.close_all(alias)
            eventually(lambda: idle() == 1)
            return left

        assert in_child(ends) == 0


def test_connections_idle_for_too_long_are_closed_down_to_min_size(
    quick_housekeeper: None, observer: Observer
) -> None:
    forget_overrides()
    pool = {"SIZE": 4, "MAX_OUTSTANDING": 4, "IDLE_TIMEOUT": 0.1, "MIN_SIZE": 1}
    with another_alias(POOL=pool) as alias:
        assert_whole(alias)
        eventually(lambda: observer.count() == 1)
        assert pooling.stats(alias).idle == 1


def test_excess_over_size_goes_away_after_a_while(
    quick_housekeeper: None, monkeypatch: pytest.MonkeyPatch, observer: Observer
) -> None:
    from django_db_pooling.pool import maintenance

    monkeypatch.setattr(maintenance, "EXCESS_STAYS", 0.1)
    assert_whole()
    eventually(lambda: observer.count() == 2)
    assert pooling.stats("default").idle == 2


def test_conn_max_age_replaces_old_connections() -> None:
    forget_overrides()
    with another_alias(CONN_MAX_AGE=0.1) as alias:
        opened = pooling.stats(alias).opened
        deadline = time.monotonic() + 10
        while pooling.stats(alias).opened - opened < 3:
            request_started()
            token(alias)
            request_finished()
            assert time.monotonic() < deadline


def test_health_checks_ask_the_server_at_each_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = drivers.find(connection.Database)
    assert driver is not None
    asked: list[int] = []
    usable = driver.usable
    monkeypatch.setattr(driver, "usable", lambda *args: asked.append(1) or usable(*args), raising=False)
    with another_alias(CONN_HEALTH_CHECKS=True) as alias:
        one(alias)
        connections[alias].close()
        assert asked == []
        for number in range(1, 4):
            request_started()
            token(alias)
            token(alias)
            request_finished()
            assert len(asked) == number


def test_a_process_ends_quickly_and_quietly_with_connections_in_every_state() -> None:
    told = in_process("""
import django; django.setup()
import threading
from django.db import connection
from django_db_pooling import pooling
pooling.patch()
def work():
    connection.ensure_connection()
    with connection.cursor() as cursor: cursor.execute("SELECT 1")
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
work()
def forever():
    work()
    threading.Event().wait()
threading.Thread(target=forever, daemon=True).start()
import time
while pooling.stats("default").in_use < 2: time.sleep(0.01)
print(json.dumps("ended"))
""")
    assert told == "ended"


def test_settings_of_the_session_are_made_for_each_physical_connection() -> None:
    """time zone, isolation level, autocommit: what Django sets when it connects."""

    def look() -> list[Any]:
        if MYSQL:
            isolation = "tx_isolation" if MARIADB else "transaction_isolation"
            return sql(f"SELECT @@{isolation}, @@autocommit, @@sql_auto_is_null, @@time_zone")
        if connection.vendor == "postgresql":
            return sql("SELECT current_setting('TimeZone'), current_setting('transaction_isolation')")
        return sql("PRAGMA foreign_keys")

    barrier = threading.Barrier(4)

    def together() -> list[Any]:
        one()
        barrier.wait(10)
        return look()

    from tests.behaviour.conftest import in_threads

    answers = in_threads([together] * 4)
    assert all(answer == answers[0] for answer in answers)
    assert look() == answers[0]


@servers
def test_a_cursor_without_a_database_closes_what_is_idle_in_its_own_database_and_nothing_else() -> None:
    """CREATE DATABASE ... TEMPLATE and DROP DATABASE fail while anybody is connected there."""
    system = "information_schema" if MYSQL else "postgres"
    with another_alias() as same, another_alias(NAME=system) as elsewhere:
        for alias in ("default", same, elsewhere):
            one(alias)
            connections[alias].close()
        assert [pooling.stats(alias).idle for alias in (same, elsewhere)] == [1, 1]
        with connection._nodb_cursor() as cursor:  # type: ignore[attr-defined]
            cursor.execute("SELECT 1")
        assert [pooling.stats(alias).idle for alias in ("default", same, elsewhere)] == [0, 0, 1]
