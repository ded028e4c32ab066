"""System checks: each finds what it is for, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import connection, connections
from django.test import override_settings

from django_db_pooling import capacity, checks, conf, drivers, pooling
from django_db_pooling.checks import check_capacity, check_pools
from django_db_pooling.process import green
from tests.behaviour.conftest import GEVENT, MYSQL, POSTGRESQL, plain, request_finished, request_started
from tests.behaviour.observer import DRIVER, Observer
from tests.behaviour.test_errors import in_process
from tests.behaviour.test_outage import limited_user
from tests.servers import free_port

servers = pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2")
ALIAS = "checked"


@pytest.fixture(autouse=True)
def no_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    conf._overrides.clear()
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)


@pytest.fixture
def own_directory(tmp_path: Path) -> Iterator[None]:
    """For the files of HOST_LIMIT."""
    with override_settings(DB_POOL_STATUS_DIR=str(tmp_path)):
        yield


@contextmanager
def alias(**changes: Any) -> Iterator[None]:
    """One more alias, which nobody opens."""
    connections.settings[ALIAS] = {**connections.settings["default"], **changes}
    try:
        yield
    finally:
        del connections.settings[ALIAS]
        if hasattr(connections._connections, ALIAS):
            connections[ALIAS].close()
            del connections[ALIAS]


def short(messages: Any) -> list[str]:
    assert all(message.hint for message in messages)
    return [message.id.removeprefix("django_db_pooling.") for message in messages]


def found(id: str) -> list[str]:
    """The texts of what is found under an id."""
    return [message.msg for message in check_pools(None) if message.id == f"django_db_pooling.{id}"]


def test_nothing_is_wrong_with_plain_settings() -> None:
    expected = ["W001"] if GEVENT and DRIVER in ("mysqlclient", "psycopg2") else []
    told = [id for id in short(check_pools(None)) if id != "W003"]
    if DRIVER == "psycopg2":
        # psycogreen's callback may be there.
        told = [id for id in told if id != "W001"]
        expected = []
    assert told == expected


# -- what is known without a server --------------------------------------------------------------------


def test_no_limit_under_gevent_is_a_warning() -> None:
    with alias(POOL={"MAX_OUTSTANDING": None}):
        assert len(found("W004")) == (1 if GEVENT else 0)
    for bound in ({"MAX_OUTSTANDING": 500}, {"MAX_OUTSTANDING": None, "HOST_LIMIT": 500}):
        with alias(POOL=bound):
            assert not found("W004")
    with alias():
        pooling.set_pool_size(5, max_outstanding=None, alias=ALIAS)
        assert len(found("W004")) == (1 if GEVENT else 0)
    with alias(POOL=False):
        conf._overrides.clear()
        assert not found("W004")


@pytest.mark.parametrize(
    ("id", "settings"), [("W008", {"ATOMIC_REQUESTS": True}), ("I003", {"CONN_HEALTH_CHECKS": True})]
)
def test_what_goes_badly_with_transaction_scope(id: str, settings: dict[str, Any]) -> None:
    with alias(POOL={"SCOPE": "transaction"}, **settings):
        [text] = found(id)
        assert ALIAS in text
        assert next(iter(settings)) in text
    with alias(POOL={"SCOPE": "request"}, **settings):
        assert not found(id)
    with alias(**settings):
        assert not found(id)
    with alias(POOL={"SCOPE": "transaction"}):
        assert not found(id)


@pytest.mark.parametrize(
    "engine",
    [
        "dj_db_conn_pool.backends.mysql",
        "django_db_geventpool.backends.postgresql_psycopg2",
        "django_postgrespool2",
        "django_mysqlpool.backends.mysqlpool",
    ],
)
def test_the_engine_of_another_pool_is_named(engine: str) -> None:
    with alias(ENGINE=engine):
        [text] = found("W009")
        assert engine in text
    with alias(ENGINE=engine, POOL=False):
        assert not found("W009")
    with alias(ENGINE="carpool.backends.mysql"):
        assert not found("W009")


def test_so_is_a_projects_own_backend_with_another_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    mixin = type("Mixin", (), {"__module__": "dj_db_conn_pool.core.mixins"})
    wrapper = type("DatabaseWrapper", (mixin, checks._backend(connection.settings_dict["ENGINE"])), {})
    backend = type("backend", (), {"DatabaseWrapper": wrapper})
    load = checks.load_backend
    monkeypatch.setattr(checks, "load_backend", lambda name: backend if name == "my.backend" else load(name))
    with alias(ENGINE="my.backend"):
        [text] = found("W009")
        assert "dj_db_conn_pool" in text


def test_sockets_without_threads_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not found("W007")
    monkeypatch.setattr(green, "patched", lambda module: module == "socket")
    assert len(found("W007")) == 1


@pytest.mark.only("psycopg")
@pytest.mark.parametrize("early", [True, False])
def test_psycopg_that_was_imported_before_gevents_patch_is_told(early: bool) -> None:
    told = in_process(f"""
import subprocess
code = '''
import json, os
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.behaviour.settings"
if {early}:
    import psycopg
from gevent import monkey
monkey.patch_all()
import django; django.setup()
from django_db_pooling.checks import check_pools
print(json.dumps([message.id[-4:] for message in check_pools(None)]))
'''
done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], text=True, capture_output=True)
print(done.stdout.splitlines()[-1] if done.stdout else json.dumps(done.stderr))
""")
    assert told == (["W001"] if early else [])


def test_ldap_and_what_cannot_be_loaded_break_nothing() -> None:
    with alias(
        ENGINE="ldapdb.backends.ldap", NAME="ldap://127.0.0.1/", USER="cn=admin", PASSWORD="x", POOL={}
    ):
        assert not [text for text in (found("W002") + found("W008")) if ALIAS in text]
        try:
            import ldapdb  # noqa: F401
        except ImportError:
            return
        with override_settings(DB_POOL_WORKERS=1000):
            assert check_capacity(None, [ALIAS]) == []
    with alias(ENGINE="no.such.backend"):
        check_pools(None)
    with alias(ENGINE="django.db.backends.dummy"):
        check_pools(None)


@pytest.mark.parametrize("name", ["DB_POOL_WORKERS", "DB_POOL_HOSTS"])
@pytest.mark.parametrize("value", [0, -1, "4", 2.0, True])
def test_counts_of_processes_are_whole_numbers(name: str, value: Any) -> None:
    with override_settings(**{name: value}):
        [text] = found("E006")
        assert name in text
        assert check_capacity(None, ["default"]) == []
    with override_settings(**{name: 4}):
        assert not found("E006")


def test_patch_logs_the_same_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "django_db_pooling")
    monkeypatch.setattr(checks, "_logged", set())
    settings = {"ATOMIC_REQUESTS": True, "CONN_HEALTH_CHECKS": True}
    with alias(POOL={"SCOPE": "transaction"}, **settings):
        pooling.patch()
        pooling.patch()
    told = {
        vars(record)["pool_check"]: (record.levelname, vars(record)["pool_event"])
        for record in caplog.records
        if ALIAS in record.getMessage() and "pool_check" in vars(record)
    }
    if GEVENT:
        told.pop("django_db_pooling.W001", None)
    assert told == {
        "django_db_pooling.W008": ("WARNING", "check"),
        "django_db_pooling.I003": ("INFO", "check"),
    }


# -- what the server says -------------------------------------------------------------------------------


def asked(**settings: Any) -> list[Any]:
    with override_settings(**settings):
        return check_capacity(None, ["default"])


def limit() -> int:
    """How many connections the server has for us."""
    with plain() as wrapper, wrapper.cursor() as cursor:
        if MYSQL:
            cursor.execute("SELECT @@max_connections")
        else:
            cursor.execute(
                "SELECT sum(CASE name WHEN 'max_connections' THEN setting::int ELSE -setting::int END) "
                "FROM pg_settings WHERE name IN ('max_connections', 'superuser_reserved_connections', "
                "'reserved_connections')"
            )
        return int(cursor.fetchone()[0])


@pytest.fixture
def of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["default"], "POOL", {"SIZE": 4, "MAX_OUTSTANDING": 4})


@servers
def test_more_than_the_server_accepts_is_a_warning_with_the_number_that_fits(of_four: None) -> None:
    most = limit() // 4
    assert asked(DB_POOL_WORKERS=most) == []
    [warning] = asked(DB_POOL_WORKERS=most + 1)
    assert short([warning]) == ["W005"]
    assert f"{most + 1} processes" in warning.msg
    assert str(limit()) in warning.msg
    assert f"MAX_OUTSTANDING to {limit() // (most + 1)} or less" in warning.hint
    assert short(asked(DB_POOL_WORKERS=most, DB_POOL_HOSTS=2)) == ["W005"]


@servers
def test_gunicorns_number_of_workers_is_known_and_the_settings_beat_it(
    of_four: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "1000")
    assert short(asked()) == ["W005"]
    assert asked(DB_POOL_WORKERS=2) == []
    monkeypatch.setenv("WEB_CONCURRENCY", "auto")
    assert short(asked()) == ["I001"]


@servers
def test_without_a_number_of_processes_it_is_told_for_how_many_it_is_enough(of_four: None) -> None:
    [info] = asked()
    assert short([info]) == ["I001"]
    assert f"Enough for {limit() // 4} processes" in info.msg
    assert info.level == logging.INFO


@servers
def test_a_minimum_that_the_server_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = {"SIZE": 4, "MAX_OUTSTANDING": 4, "MIN_SIZE": 4}
    monkeypatch.setitem(connections.settings["default"], "POOL", pool)
    assert short(asked(DB_POOL_WORKERS=1000)) == ["W006"]
    assert asked(DB_POOL_WORKERS=2) == []


@servers
def test_a_pool_without_a_limit_is_more_than_any_server_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["default"], "POOL", {"MAX_OUTSTANDING": None})
    assert short(asked(DB_POOL_WORKERS=1)) == ["W005"]
    assert short(asked()) == ["I001"]


@servers
def test_aliases_of_the_same_server_add_up(of_four: None) -> None:
    most = limit() // 4
    assert asked(DB_POOL_WORKERS=most) == []
    with alias(NAME="another"):
        assert short(asked(DB_POOL_WORKERS=most)) == ["W005"]
    with alias(HOST="another.example"):
        assert asked(DB_POOL_WORKERS=most) == []
    with alias(NAME="another", POOL=False):
        assert asked(DB_POOL_WORKERS=most) == []


@servers
@pytest.mark.usefixtures("own_directory")
def test_a_host_limit_counts_once_for_each_host(monkeypatch: pytest.MonkeyPatch) -> None:
    half = limit() // 2
    pool = {"SIZE": 1, "HOST_LIMIT": half}
    monkeypatch.setitem(connections.settings["default"], "POOL", pool)
    # However many processes there are.
    assert asked() == []
    assert asked(DB_POOL_WORKERS=1000, DB_POOL_HOSTS=2) == []
    [warning] = asked(DB_POOL_HOSTS=3)
    assert short([warning]) == ["W005"]
    assert f"may open {half} connections (HOST_LIMIT), there are 3 hosts" in warning.msg
    assert f"HOST_LIMIT to {limit() // 3} or less, or raise" in warning.hint
    # Or as many as the processes may open, if that is less.
    pool["MAX_OUTSTANDING"] = 2
    assert asked(DB_POOL_WORKERS=1, DB_POOL_HOSTS=3) == []
    assert short(asked(DB_POOL_WORKERS=half, DB_POOL_HOSTS=3)) == ["W005"]
    # MIN_SIZE is within it.
    pool |= {"MIN_SIZE": 1}
    assert asked(DB_POOL_WORKERS=1000, DB_POOL_HOSTS=2) == []


@servers
@pytest.mark.usefixtures("own_directory")
def test_a_host_limit_and_an_alias_without_one_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    half = limit() // 2
    monkeypatch.setitem(connections.settings["default"], "POOL", {"SIZE": 1, "HOST_LIMIT": half})
    with alias(NAME="another", POOL={"SIZE": 4, "MAX_OUTSTANDING": 4}):
        [info] = asked()
        assert short([info]) == ["I001"]
        assert f"may open 4 connections, besides {half} of each host (HOST_LIMIT)" in info.msg
        enough = (limit() - half) // 4
        assert f"Enough for {enough} processes" in info.msg
        assert asked(DB_POOL_WORKERS=enough) == []
        [warning] = asked(DB_POOL_WORKERS=enough + 1)
        assert short([warning]) == ["W005"]
        assert f"{enough + 1} processes may open 4 connections each, besides {half}" in warning.msg
    with alias(NAME="another", POOL={"SIZE": 4, "HOST_LIMIT": half + 2}):
        [warning] = asked()
        assert f"may open {2 * half + 2} connections (HOST_LIMIT), there is 1 host" in warning.msg
        assert f"HOST_LIMIT to {limit()} or less in total" in warning.hint
    with alias(NAME="another", POOL={"MAX_OUTSTANDING": None}):
        assert "may open any number of connections, besides" in asked()[0].msg
        assert short(asked(DB_POOL_WORKERS=1)) == ["W005"]


@servers
def test_an_alias_without_a_host_has_the_same_server_however_it_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key in ("HOST", "PORT"):
        monkeypatch.setitem(connections.settings["default"], key, "")
    with alias(HOST=None, PORT=None):
        [shares] = capacity.servers({}).values()
    assert {share.alias for share in shares} == {"default", ALIAS}


@servers
def test_a_limit_of_the_role_counts(of_four: None, monkeypatch: pytest.MonkeyPatch) -> None:
    four = connections.settings["default"]["POOL"]
    monkeypatch.setitem(connections.settings["default"], "POOL", False)
    with limited_user(most=6) as (user, password), alias(USER=user, PASSWORD=password, POOL=four):
        with override_settings(DB_POOL_WORKERS=1):
            assert check_capacity(None, [ALIAS]) == []
        with override_settings(DB_POOL_WORKERS=2):
            [warning] = check_capacity(None, [ALIAS])
        assert short([warning]) == ["W005"]
        assert "accepts 6" in warning.msg


@pytest.mark.only("psycopg", "psycopg2")
def test_a_limit_of_the_database_counts(of_four: None) -> None:
    name = connections.settings["default"]["NAME"]
    with plain() as wrapper, wrapper.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 30")
        try:
            [warning] = asked(DB_POOL_WORKERS=8)
        finally:
            cursor.execute(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
    assert "accepts 30 (CONNECTION LIMIT 30 of the database)" in warning.msg


@servers
def test_a_server_that_cannot_be_asked_is_told_without_the_password() -> None:
    with alias(PORT=str(free_port()), POOL={"CONNECT_RETRY": 0}, PASSWORD="s3cr3t"):
        [info] = check_capacity(None, [ALIAS])
    assert short([info]) == ["I002"]
    assert "s3cr3t" not in f"{info.msg} {info.hint}"


@pytest.mark.only("sqlite3")
def test_a_file_takes_as_many_as_there_are() -> None:
    assert asked(DB_POOL_WORKERS=1000) == []


@servers
def test_only_who_asks_for_it_has_the_server_asked(of_four: None, observer: Observer) -> None:
    before = pooling.stats("default").checkouts
    with override_settings(DB_POOL_WORKERS=1000):
        for where in ({}, {"databases": ["default"]}):
            assert "django_db_pooling.W005" not in [message.id for message in run_checks(**where)]
        told = StringIO()
        if MYSQL or POSTGRESQL:
            call_command("check", deploy=True, databases=["default"], stdout=told, stderr=told)
    assert "django_db_pooling.W005" in told.getvalue()
    assert pooling.stats("default").checkouts > before
    assert pooling.stats("default").in_use == 0


@servers
def test_a_connection_that_was_open_before_stays_open(of_four: None) -> None:
    request_started()
    with connection.cursor():
        pass
    asked(DB_POOL_WORKERS=1)
    assert connection.connection is not None
    request_finished()


def test_the_driver_is_asked_for_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = drivers.find(connection.Database)
    monkeypatch.setattr(driver, "advice", lambda: "Take another one.", raising=False)
    assert found("W001")
    monkeypatch.setattr(driver, "advice", lambda: None, raising=False)
    assert not found("W001")
    monkeypatch.setattr(drivers, "find", lambda database: None)
    with alias():
        assert any(ALIAS in text for text in found("W002"))
