"""MySQL's and MariaDB's roles, which the server's own reset leaves as they are."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_db_pooling import pooling
from django_db_pooling.signals import connection_checked_out
from tests.behaviour.conftest import (
    MARIADB,
    another_alias,
    eventually,
    in_thread,
    plain,
    request_finished,
    request_started,
    server_id,
    sql,
)

pytestmark = pytest.mark.only("pymysql", "mysqlclient")

ROLE, USER = "roles_role", "roles_user"


def request(statement: str, alias: str) -> list[Any]:
    """The rows of a statement that is a request of its own."""
    request_started()
    try:
        return sql(statement, using=alias)
    finally:
        request_finished()


def role(alias: str) -> str | None:
    found: str | None = request("SELECT CURRENT_ROLE()", alias)[0][0]
    # In MySQL's words: `name`@`%`, NONE.
    return None if found in (None, "NONE") else found.split("@")[0].strip("`")


@pytest.fixture
def execute(fresh_pool: None) -> Iterator[Callable[[str], None]]:
    def execute(statement: str) -> None:
        with plain() as wrapper, wrapper.cursor() as cursor:
            cursor.execute(statement)

    execute(f"DROP ROLE IF EXISTS {ROLE}")
    execute(f"DROP USER IF EXISTS {USER}")
    execute(f"CREATE ROLE {ROLE}")
    execute(f"CREATE USER {USER} IDENTIFIED BY '{USER}'")
    execute(f"GRANT {ROLE} TO {USER}")
    execute(f"GRANT SELECT ON *.* TO {USER}")
    yield execute
    execute(f"DROP USER {USER}")
    execute(f"DROP ROLE {ROLE}")


HIDDEN = ["EXECUTE IMMEDIATE 'SET ROLE NONE'"] if MARIADB else []
ACCOUNT = {"USER": USER, "PASSWORD": USER}
POOL = {"SIZE": 1, "MAX_OUTSTANDING": 1}


def by_an_init_command(execute: Callable[[str], None]) -> dict[str, Any]:
    return {"OPTIONS": {"init_command": f"SET ROLE {ROLE}"}}


def by_default(execute: Callable[[str], None]) -> dict[str, Any]:
    execute(f"SET DEFAULT ROLE {ROLE} {'FOR' if MARIADB else 'TO'} {USER}")
    return {}


@pytest.mark.parametrize("given", [by_an_init_command, by_default])
def test_a_role_that_each_connection_has_from_the_beginning_is_there_for_everybody(
    given: Callable[[Any], dict[str, Any]], execute: Callable[[str], None]
) -> None:
    with another_alias(**ACCOUNT, **given(execute), POOL=POOL) as alias:
        assert role(alias) == ROLE
        for statement in ("SET @mine = 1", "SET ROLE NONE", *HIDDEN):
            request(statement, alias)
            assert role(alias) == ROLE


def test_a_role_that_a_thread_took_before_it_ended_is_not_its_successors(
    execute: Callable[[str], None],
) -> None:
    with another_alias(**ACCOUNT, POOL=POOL) as alias:

        def work() -> None:
            request_started()
            sql(f"SET ROLE {ROLE}", using=alias)

        in_thread(work)
        gc.collect()
        eventually(lambda: pooling.stats(alias).in_use == 0)
        assert role(alias) is None


@pytest.mark.only("pymysql")
def test_a_role_that_each_connection_has_from_the_beginning_is_no_reason_to_close_one(
    execute: Callable[[str], None],
) -> None:
    with another_alias(**ACCOUNT, **by_default(execute), POOL=POOL) as alias:
        for _ in range(3):
            request("SET @mine = 1", alias)
        assert (pooling.stats(alias).resets, pooling.stats(alias).opened) == (3, 1)


@pytest.mark.parametrize("how", ["auto", "always"])
def test_what_the_server_executes_for_new_connections_is_done_for_everybody(
    how: str, execute: Callable[[str], None]
) -> None:
    execute("SET GLOBAL init_connect = 'SET @tenant = 5'")
    try:
        with another_alias(**ACCOUNT, POOL=POOL | {"RESET": how}) as alias:
            for _ in range(2):
                assert request("SELECT @tenant", alias) == [(5,)]
                request("SET @mine = 1", alias)
    finally:
        execute("SET GLOBAL init_connect = ''")


@pytest.mark.only("pymysql")
def test_a_server_that_knows_no_roles_is_used_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import pymysql

    query = pymysql.connections.Connection.query

    def without_roles(self: Any, text: str, unbuffered: bool = False) -> Any:
        return query(self, text.replace("CURRENT_ROLE", "no_such_function"), unbuffered)

    monkeypatch.setattr(pymysql.connections.Connection, "query", without_roles)
    with another_alias(POOL=POOL) as alias:
        for _ in range(2):
            request("SET @mine = 1", alias)
            assert request("SELECT @mine", alias) == [(None,)]
        assert (pooling.stats(alias).resets, pooling.stats(alias).opened) == (2, 1)


def test_a_role_that_is_taken_at_each_checkout_closes_nothing(execute: Callable[[str], None]) -> None:
    def take(connection: Any, **kwargs: Any) -> None:
        if connection.alias == alias:
            sql(f"SET ROLE {ROLE}", using=alias)

    connection_checked_out.connect(take)
    try:
        with another_alias(**ACCOUNT, POOL=POOL) as alias:
            before = request("SELECT CONNECTION_ID()", alias)
            assert role(alias) == ROLE
            assert request("SELECT CONNECTION_ID()", alias) == before
    finally:
        connection_checked_out.disconnect(take)


def test_who_wants_no_reset_keeps_the_connection(execute: Callable[[str], None]) -> None:
    with another_alias(**ACCOUNT, POOL=POOL | {"RESET": "never"}) as alias:
        before = server_id(alias)
        request(f"SET ROLE {ROLE}", alias)
        assert role(alias) == ROLE
        assert server_id(alias) == before
