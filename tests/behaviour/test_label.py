"""POOL["LABEL"]: the server shows which process a session belongs to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import override_settings

from django_db_pooling import pooling
from tests.behaviour.conftest import (
    DRIVER,
    MARIADB,
    POSTGRESQL,
    another_alias,
    assert_whole,
    one,
    server_id,
    sql,
)
from tests.concurrency import in_child
from tests.servers import MariaDB

pytestmark = pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2")
# mysqlclient has no way to name a session.
named = pytest.mark.only("pymysql", "psycopg", "psycopg2")

PROGRAM = "gunicorn"


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [f"/srv/site/bin/{PROGRAM}"])
    monkeypatch.delenv("PGAPPNAME", raising=False)


@pytest.fixture(scope="module")
def where() -> Iterator[dict[str, Any]]:
    """Settings of an alias whose server shows names: MariaDB doesn't by default."""
    if not MARIADB:
        yield {}
        return
    with MariaDB(extra=["--performance-schema=ON"]) as server:
        server.create("labels")
        address = {"HOST": server.host, "PORT": str(server.port), "NAME": "labels"}
        yield address | {"USER": server.user, "PASSWORD": server.password}


def label(pid: int | None = None) -> str:
    # The settings of these tests are tests.behaviour.settings.
    return f"{PROGRAM}: tests ({pid or os.getpid()})"


def shown(alias: str) -> str:
    """By the server, of the session that this thread has now."""
    if POSTGRESQL:
        found = sql("SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()", using=alias)
    else:
        statement = (
            "SELECT attr_value FROM performance_schema.session_connect_attrs "
            "WHERE attr_name = 'program_name' AND processlist_id = CONNECTION_ID()"
        )
        found = sql(statement, using=alias)
        assert sql(statement.replace("program_name", "_client_name"), using=alias)
    return str(found[0][0]) if found else ""


@named
def test_a_session_is_named_after_its_process(where: dict[str, Any]) -> None:
    with another_alias(POOL={"LABEL": True}, **where) as alias:
        assert shown(alias) == label()
        assert_whole(alias)


@pytest.mark.only("psycopg", "psycopg2")
def test_it_is_part_of_connecting_and_no_statement() -> None:
    with another_alias(POOL={"LABEL": True}) as alias:
        statement = "SELECT source FROM pg_settings WHERE name = 'application_name'"
        assert sql(statement, using=alias) == [("client",)]
        sql("SET application_name = 'mine'", using=alias)
        assert sql(statement, using=alias) == [("session",)]


@named
@pytest.mark.parametrize("pool", [{}, {"LABEL": False}])
def test_it_is_off_by_default(pool: dict[str, Any], where: dict[str, Any]) -> None:
    with another_alias(POOL=pool, **where) as alias:
        assert shown(alias) == ""


@named
def test_a_name_in_the_settings_is_kept(where: dict[str, Any]) -> None:
    option = "application_name" if POSTGRESQL else "program_name"
    with another_alias(POOL={"LABEL": True}, OPTIONS={option: "mine"}, **where) as alias:
        assert shown(alias) == "mine"


@pytest.mark.only("psycopg", "psycopg2")
def test_a_name_in_the_environment_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGAPPNAME", "of the environment")
    with another_alias(POOL={"LABEL": True}) as alias:
        assert shown(alias) == "of the environment"


@named
def test_it_survives_a_reset(where: dict[str, Any]) -> None:
    with another_alias(POOL={"LABEL": True, "RESET": "always"}, **where) as alias:
        for _ in range(3):
            assert shown(alias) == label()
            if POSTGRESQL:
                sql("SET application_name = 'mine'", using=alias)
            connections[alias].close()
        if DRIVER != "psycopg2":
            # psycopg2 has no reset: it opens another one.
            assert pooling.stats(alias).opened == 1
            assert pooling.stats(alias).resets >= 2


@named
def test_a_forked_child_s_sessions_have_its_own_process_id(where: dict[str, Any]) -> None:
    with another_alias(POOL={"LABEL": True}, **where) as alias:
        assert shown(alias) == label()
        connections[alias].close()
        pid, seen = in_child(lambda: (os.getpid(), shown(alias)))
        assert pid != os.getpid()
        assert seen == label(pid)


@named
def test_one_that_is_too_long_keeps_the_process_id(
    where: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["é" + "x" * 100])
    with another_alias(POOL={"LABEL": True}, **where) as alias:
        found = shown(alias)
    assert found.startswith("\\xe9xxx")
    assert found.endswith(f"x ({os.getpid()})")
    assert len(found) == 63


@named
def test_settings_that_are_no_module_leave_the_program_alone(where: dict[str, Any]) -> None:
    with override_settings(SETTINGS_MODULE=None), another_alias(POOL={"LABEL": True}, **where) as alias:
        assert shown(alias) == f"{PROGRAM} ({os.getpid()})"


@pytest.mark.only("mysqlclient")
def test_mysqlclient_connects_all_the_same() -> None:
    with another_alias(POOL={"LABEL": True}) as alias:
        assert_whole(alias)


@pytest.mark.parametrize("value", [None, "yes", 1])
def test_a_bad_value_is_an_error_that_names_the_key(value: Any) -> None:
    with another_alias(POOL={"LABEL": value}) as alias:
        with pytest.raises(ImproperlyConfigured, match="'LABEL'.*True or False"):
            one(alias)
        connections.settings[alias]["POOL"] = {}


def test_where_it_is_switched_on_connections_from_before_are_replaced() -> None:
    with another_alias() as alias:
        before = server_id(alias)
        connections[alias].close()
        connections.settings[alias]["POOL"] = {"LABEL": True}
        assert server_id(alias) != before
        assert pooling.stats(alias).opened == 2
