"""Opening under one deadline, and a server that lets in no more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.db.backends.signals import connection_created

from django_db_pooling import pooling
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    MYSQL,
    another_alias,
    assert_whole,
    in_threads,
    request,
    sql,
    token,
)
from tests.behaviour.test_identity import changed
from tests.behaviour.test_outage import limited_user
from tests.proxy import TcpProxy

pytestmark = [
    pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2"),
    # Requests begin and end where these tests say so.
    pytest.mark.transaction_scope,
]

TIMEOUT = 1.0
# The housekeeper looks each second.
PATIENCE = TIMEOUT + 2.0


@contextmanager
def proxied() -> Iterator[tuple[str, TcpProxy]]:
    settings = connection.settings_dict
    with (
        TcpProxy(settings["HOST"], int(settings["PORT"])) as proxy,
        another_alias(HOST=proxy.host, PORT=str(proxy.port), POOL={"CONNECT_RETRY": 0}) as alias,
    ):
        pooling.set_pool_size(4, max_outstanding=4, timeout=TIMEOUT, alias=alias)
        yield alias, proxy


# C code that waits there doesn't let the housekeeper run.
@pytest.mark.never("mysqlclient", "gevent")
@pytest.mark.never("psycopg2", "gevent")
def test_a_server_that_lets_in_and_is_silent_then_is_given_up_in_time() -> None:
    with proxied() as (alias, proxy):

        def ask(sender: Any, connection: Any, **kwargs: Any) -> None:
            proxy.deaf()
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")

        connection_created.connect(ask)
        try:
            began = time.monotonic()
            with pytest.raises(OperationalError):
                request(lambda: token(alias))
            assert time.monotonic() - began < PATIENCE
        finally:
            connection_created.disconnect(ask)
            proxy.resume()
        assert (pooling.stats(alias).opening, pooling.stats(alias).in_use) == (0, 0)
        request(lambda: token(alias))
        assert_whole(alias)


def test_a_server_that_lets_in_no_more_is_told_of_and_fails_nobody() -> None:
    with (
        limited_user(most=2) as (user, password),
        another_alias(USER=user, PASSWORD=password) as alias,
    ):
        pooling.set_pool_size(6, max_outstanding=6, alias=alias)

        def work() -> None:
            for _ in range(3):
                request(lambda: hold(alias))

        in_threads([work] * 8)
        stats = pooling.stats(alias)
        assert stats.refused > 0
        assert stats.open_when_refused is not None
        assert stats.free is not None and stats.free <= 2
        troubles = [
            trouble for trouble in registry.pools(alias)[0].journal.troubles if trouble.kind == "full"
        ]
        assert len(troubles) == stats.refused
        assert_whole(alias)


def test_a_password_that_the_server_no_longer_takes_fails_nobody_whom_others_can_serve() -> None:
    """It is changed at the server first, as rotations go that nobody should do so."""
    with (
        limited_user(most=20) as (user, password),
        another_alias(USER=user, PASSWORD=password) as alias,
    ):
        pooling.set_pool_size(6, max_outstanding=6, alias=alias)
        request(lambda: token(alias))
        change_password(user, "another")
        try:

            def work() -> None:
                for _ in range(3):
                    request(lambda: hold(alias))

            in_threads([work] * 5)
            assert pooling.stats(alias).opened == 1
            # With the new one in the settings all is well again.
            with changed(alias, PASSWORD="another"):
                in_threads([work] * 5)
                assert_whole(alias)
        finally:
            change_password(user, password)


def test_a_password_that_was_always_wrong_is_told_at_once() -> None:
    with limited_user(most=2) as (user, _), another_alias(USER=user, PASSWORD="wrong") as alias:
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(OperationalError):
                request(lambda: token(alias))
            assert time.monotonic() - began < PATIENCE


def hold(alias: str) -> None:
    token(alias)
    time.sleep(0.05)
    token(alias)


def change_password(user: str, password: str) -> None:
    if MYSQL:
        sql(f"ALTER USER '{user}'@'%' IDENTIFIED BY '{password}'")
    else:
        sql(f"ALTER ROLE {user} PASSWORD '{password}'")
