"""What goes wrong says so: Django's errors, in time, with every slot intact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connection, connections

from django_db_pooling import conf, pooling
from django_db_pooling.checks import check_pools
from django_db_pooling.exceptions import PoolTimeout
from tests.behaviour.conftest import (
    DRIVER,
    GEVENT,
    POSTGRESQL,
    another_alias,
    assert_whole,
    eventually,
    held,
    in_thread,
    in_threads,
    one,
    request_finished,
    request_started,
    token,
)
from tests.behaviour.observer import Observer
from tests.servers import free_port

servers = pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2")
SECRET = "f9b1-secret"


def in_use(alias: str = "default") -> int:
    return pooling.stats(alias).in_use


# -- exhausted ------------------------------------------------------------------------------------


def test_an_exhausted_pool_is_djangos_operational_error_in_time_with_the_numbers() -> None:
    pooling.set_pool_size(1, max_outstanding=2, timeout=0.2)
    timeouts = pooling.stats("default").timeouts
    with held(2):
        started = time.monotonic()
        with pytest.raises(PoolTimeout) as caught:
            one()
        assert 0.15 < time.monotonic() - started < 2
        assert isinstance(caught.value, OperationalError)
        assert 0.15 < caught.value.waited < 2
        message = str(caught.value)
        for part in ("'default'", "2 in use", "0 idle", "max_outstanding 2", "Held longest"):
            assert part in message
        assert (in_use(), pooling.stats("default").waiting) == (2, 0)
    assert pooling.stats("default").timeouts - timeouts == 1
    assert_whole()


def test_the_error_says_which_request_holds_longest() -> None:
    pooling.set_pool_size(1, max_outstanding=1, timeout=0.05)
    request_started()
    one()

    def other() -> str:
        with pytest.raises(PoolTimeout) as caught:
            one()
        return str(caught.value)

    assert "GET /test" in in_thread(other)
    request_finished()


def test_a_timeout_of_zero_never_waits_but_uses_what_is_free() -> None:
    pooling.set_pool_size(1, max_outstanding=2, timeout=0)
    with held(1):
        one()

        def other() -> float:
            started = time.monotonic()
            with pytest.raises(PoolTimeout) as caught:
                one()
            assert caught.value.waited == 0
            return time.monotonic() - started

        assert in_thread(other) < 0.5
        connection.close()
        in_thread(one)
    in_thread(one)
    assert_whole_with_patience()


def assert_whole_with_patience() -> None:
    pooling.set_pool_size(1, max_outstanding=2, timeout=5)
    assert_whole()


def test_a_timeout_of_none_waits_as_long_as_it_takes() -> None:
    pooling.set_pool_size(1, max_outstanding=1, timeout=None)

    def work() -> None:
        for _ in range(5):
            request_started()
            token()
            request_finished()

    in_threads([work] * 6)
    assert_whole()


def test_more_than_max_waiting_are_refused_at_once() -> None:
    with another_alias(POOL={"SIZE": 1, "MAX_OUTSTANDING": 1, "MAX_WAITING": 0, "TIMEOUT": 5}) as alias:
        forget_overrides()
        with held(1, alias):
            started = time.monotonic()
            with pytest.raises(PoolTimeout, match="MAX_WAITING"):
                one(alias)
            assert time.monotonic() - started < 2
        one(alias)


def forget_overrides() -> None:
    from django_db_pooling import conf

    conf._overrides.clear()


def test_a_timeout_inside_of_a_request_leaves_the_request_usable() -> None:
    pooling.set_pool_size(1, max_outstanding=1, timeout=0.05)
    request_started()
    with held(1), pytest.raises(PoolTimeout):
        one()
    token()
    request_finished()
    assert in_use() == 0


def test_a_live_change_of_the_limits_lets_waiters_through() -> None:
    pooling.set_pool_size(1, max_outstanding=1, timeout=None)
    with held(1):

        def grow() -> None:
            eventually(lambda: pooling.stats("default").waiting == 1)
            pooling.set_pool_size(1, max_outstanding=2)

        assert in_threads([one, grow])[0] == 1


def test_a_smaller_pool_closes_what_is_too_much(observer: Observer) -> None:
    assert_whole()
    assert pooling.stats("default").idle == 4
    pooling.set_pool_size(1, max_outstanding=2)
    eventually(lambda: observer.count() <= 2)
    assert pooling.stats("default").idle <= 2
    with held(2):
        pooling.set_pool_size(1, max_outstanding=1)
    eventually(lambda: observer.count() <= 1)
    assert_whole()


# -- cannot connect ---------------------------------------------------------------------------------


@contextmanager
def unreachable(**changes: Any) -> Iterator[str]:
    with another_alias(**changes) as alias:
        pooling.set_pool_size(2, max_outstanding=4, timeout=1, alias=alias)
        yield alias


@servers
@pytest.mark.parametrize("what", ["PASSWORD", "PORT", "NAME", "HOST"])
def test_what_cannot_connect_is_djangos_own_error_and_works_as_soon_as_the_cause_is_gone(what: str) -> None:
    right = connections.settings["default"][what]
    wrong = {
        "PASSWORD": SECRET,
        "PORT": str(free_port()),
        "NAME": "no_such_database",
        "HOST": "no-such-host.invalid",
    }[what]
    with unreachable(**{what: wrong}) as alias:
        for _ in range(3):
            with pytest.raises(OperationalError) as caught:
                in_thread(lambda: one(alias))
            assert not isinstance(caught.value, PoolTimeout)
            assert SECRET not in str(caught.value)
        if what == "NAME":
            assert "no_such_database" in str(caught.value)
        stats = pooling.stats(alias)
        assert (stats.in_use, stats.idle, stats.opening, stats.waiting) == (0, 0, 0, 0)
        connections.settings[alias][what] = right
        token(alias)
        assert_whole(alias)


@servers
def test_many_that_cannot_connect_all_fail_in_time() -> None:
    with unreachable(PORT=str(free_port())) as alias:
        started = time.monotonic()

        def fail() -> None:
            with pytest.raises(OperationalError):
                one(alias)

        in_threads([fail] * 12)
        assert time.monotonic() - started < 8
        assert (in_use(alias), pooling.stats(alias).opening) == (0, 0)


@servers
def test_an_init_that_fails_after_connecting_frees_its_slot(observer: Observer) -> None:
    """The connection is open, its session can't be set up."""
    options = {"options": "-c no_such_setting=1"} if POSTGRESQL else {"init_command": "SET nonsense = 1"}
    with unreachable(OPTIONS=options) as alias:
        for _ in range(6):
            with pytest.raises(Exception) as caught:  # noqa: B017 - each driver has its own
                in_thread(lambda: one(alias))
            assert not isinstance(caught.value, PoolTimeout)
        assert in_use(alias) == 0
        eventually(lambda: observer.count() == 0)
        connections.settings[alias]["OPTIONS"] = {}
        assert_whole(alias)


def test_a_receiver_of_connection_created_that_fails_frees_the_slot(observer: Observer) -> None:
    from django.db.backends.signals import connection_created

    def fail(connection: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError

    connection_created.connect(fail)
    try:
        for _ in range(6):
            with pytest.raises(ZeroDivisionError):
                one()
            assert in_use() == 0
    finally:
        connection_created.disconnect(fail)
    eventually(lambda: observer.count() == 0)
    assert_whole()


@pytest.mark.only("sqlite3")
def test_a_file_that_cannot_be_opened_is_djangos_own_error() -> None:
    with unreachable(NAME="/no/such/folder/db.sqlite3") as alias:
        for _ in range(6):
            with pytest.raises(OperationalError, match="unable to open") as caught:
                one(alias)
            assert not isinstance(caught.value, PoolTimeout)
        assert in_use(alias) == 0


# -- wrong settings -----------------------------------------------------------------------------------


WRONG: list[tuple[Any, str, str]] = [
    (5, "E001", "SIZE"),
    ({"MAX_OUTSTANDIN": 5}, "E002", "Did you mean 'MAX_OUTSTANDING'"),
    ({"size": 5}, "E002", "Did you mean 'SIZE'"),
    ({"SIZE": 0}, "E003", "1 or more"),
    ({"SIZE": "10"}, "E003", "'10'"),
    ({"SIZE": True}, "E003", "True"),
    ({"SIZE": 5, "MAX_OUTSTANDING": 4}, "E003", "SIZE (5) or more"),
    ({"TIMEOUT": -1}, "E003", "seconds"),
    ({"TIMEOUT": float("nan")}, "E003", "seconds"),
    ({"MIN_SIZE": 11}, "E003", "SIZE"),
    ({"MAX_WAITING": -1}, "E003", "None"),
    ({"PING": -1}, "E003", "seconds"),
    ({"PING": "30"}, "E003", "'30'"),
]


@pytest.mark.parametrize(("pool", "id", "part"), WRONG, ids=[repr(wrong[0]) for wrong in WRONG])
def test_wrong_settings_are_refused_by_the_system_check_and_by_the_first_query(
    pool: Any, id: str, part: str
) -> None:
    with misconfigured(POOL=pool) as alias:
        found = [message for message in check_pools(None) if message.id == f"django_db_pooling.{id}"]
        assert len(found) == 1
        assert part in f"{found[0].msg} {found[0].hint}"
        assert alias in found[0].msg
        with pytest.raises(ImproperlyConfigured, match=id):
            one(alias)
        with pytest.raises(ImproperlyConfigured, match=id):
            pooling.patch()
    assert not [message for message in check_pools(None) if message.level >= checks.ERROR]


@contextmanager
def misconfigured(**changes: Any) -> Iterator[str]:
    """another_alias, whose pool can't tell anything."""
    alias = "wrong"
    connections.settings[alias] = {**connections.settings["default"], **changes}
    try:
        yield alias
    finally:
        del connections.settings[alias]
        if hasattr(connections._connections, alias):
            del connections[alias]


def test_djangos_own_pool_beside_ours_is_refused() -> None:
    with misconfigured(OPTIONS={"pool": True}):
        assert "django_db_pooling.E004" in [message.id for message in check_pools(None)]
        with pytest.raises(ImproperlyConfigured, match="E004"):
            pooling.patch()


def test_an_alias_of_set_pool_size_that_is_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="alias"):
        pooling.set_pool_size(5, alias="nowhere")
    # As if it had been said before Django's settings were there.
    conf.override(5, conf.UNCHANGED, conf.UNCHANGED, "nowhere")
    assert "django_db_pooling.E005" in [message.id for message in check_pools(None)]
    with pytest.raises(ImproperlyConfigured, match="nowhere"):
        pooling.patch()


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [
        ({"size": 0}, "size"),
        ({"size": -1}, "size"),
        ({"size": "3"}, "size"),
        ({"size": 1.5}, "size"),
        ({"size": True}, "size"),
        ({"size": 3, "max_outstanding": 2}, "max_outstanding"),
        ({"size": 3, "max_outstanding": "4"}, "max_outstanding"),
        ({"size": 3, "timeout": -0.1}, "timeout"),
        ({"size": 3, "timeout": "1"}, "timeout"),
        ({"size": 3, "timeout": float("inf")}, "timeout"),
    ],
    ids=repr,
)
def test_set_pool_size_names_the_wrong_argument_and_changes_nothing(
    kwargs: dict[str, Any], name: str
) -> None:
    before = pooling.stats("default")
    with pytest.raises(ValueError, match=name):
        pooling.set_pool_size(**kwargs)
    after = pooling.stats("default")
    assert (after.size, after.max_outstanding) == (before.size, before.max_outstanding)


def test_set_pool_size_without_max_outstanding_never_makes_it_smaller_than_size() -> None:
    pooling.set_pool_size(3)
    assert (pooling.stats("default").size, pooling.stats("default").max_outstanding) == (3, 4)
    pooling.set_pool_size(9)
    assert (pooling.stats("default").size, pooling.stats("default").max_outstanding) == (9, 9)
    pooling.set_pool_size(3, max_outstanding=None)
    assert pooling.stats("default").max_outstanding is None
    pooling.set_pool_size(5)
    assert pooling.stats("default").max_outstanding is None


def test_set_pool_size_of_one_alias_beats_that_of_all_and_both_beat_the_settings() -> None:
    with another_alias(POOL={"SIZE": 7, "MAX_OUTSTANDING": 8}) as alias:
        assert pooling.stats(alias).size == 2
        pooling.set_pool_size(3, alias=alias)
        assert (pooling.stats(alias).size, pooling.stats("default").size) == (3, 2)
        pooling.set_pool_size(1)
        assert (pooling.stats(alias).size, pooling.stats("default").size) == (3, 1)
        forget_overrides()
        assert (pooling.stats(alias).size, pooling.stats(alias).max_outstanding) == (7, 8)


def test_an_alias_with_pool_false_is_not_pooled() -> None:
    with another_alias(POOL=False) as alias:
        request_started()
        one(alias)
        assert alias not in pooling.stats()
        assert in_use(alias) == 0
        physical = connections[alias].connection
        assert physical is not None
        request_finished()
        assert connections[alias].connection is None


@pytest.mark.only("sqlite3")
def test_sqlite_in_memory_is_not_pooled() -> None:
    with another_alias(NAME=":memory:") as alias:
        with connections[alias].cursor() as cursor:
            cursor.execute("CREATE TABLE t (v)")
        request_started()
        request_finished()
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT * FROM t")
        assert (in_use(alias), pooling.stats(alias).idle) == (0, 0)
        # Django's close() leaves it open.
        connections[alias].connection.close()


# -- in a process of its own ---------------------------------------------------------------------------


PRELUDE = """
import logging, os, sys
if os.environ.get("POOLING_GEVENT"):
    from gevent import monkey
    monkey.patch_all()
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.behaviour.settings"
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
from django.conf import settings
import json
"""


def in_process(code: str) -> Any:
    """Run it in a fresh Python with the same settings; what it prints last, read as JSON."""
    run = subprocess.run(
        [sys.executable, "-c", PRELUDE + code], text=True, capture_output=True, env=os.environ, timeout=60
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_patch_with_wrong_settings_raises_with_nothing_half_applied() -> None:
    told = in_process("""
settings.DATABASES["default"]["POOL"] = {"SICE": 5}
import django; django.setup()
from django.core import signals
from django.core.exceptions import ImproperlyConfigured
from django.db.utils import ConnectionHandler
from django_db_pooling import conf, pooling
before = ConnectionHandler.__getitem__, len(signals.request_started.receivers)
try:
    pooling.patch()
except ImproperlyConfigured as error:
    message = str(error)
after = ConnectionHandler.__getitem__, len(signals.request_started.receivers)
settings.DATABASES["default"]["POOL"] = {"SIZE": 5}
pooling.patch()
print(json.dumps([message, before == after, pooling.stats("default").size]))
""")
    message, unchanged, size = told
    assert "django_db_pooling.E002" in message
    assert "Did you mean 'SIZE'" in message
    assert unchanged
    assert size == 5


def test_a_driver_that_blocks_gevent_is_warned_of_once_and_by_the_system_check() -> None:
    told = in_process("""
records = []
class Keep(logging.Handler):
    def emit(self, record): records.append(record.getMessage())
logging.getLogger("django_db_pooling").addHandler(Keep())
import django; django.setup()
from django_db_pooling import pooling
from django_db_pooling.checks import check_pools
pooling.patch(); pooling.patch()
ids = [message.id for message in check_pools(None)]
print(json.dumps([[r for r in records if "W001" in r], ids.count("django_db_pooling.W001")]))
""")
    logged, checked = told
    expected = 1 if GEVENT and DRIVER in ("mysqlclient", "psycopg2") else 0
    assert (len(logged), checked) == (expected, expected)
    if expected:
        assert "PyMySQL" in logged[0] or "psycogreen" in logged[0]
