"""The server is away for a moment, or for longer: nobody fails who needn't, and nobody waits who needn't."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import OperationalError, connections
from django.db.backends.signals import connection_created

from django_db_pooling import pooling
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    DRIVER,
    MYSQL,
    another_alias,
    assert_whole,
    eventually,
    in_thread,
    in_threads,
    plain,
    token,
)
from tests.behaviour.test_death import proxied, through_proxy  # noqa: F401
from tests.behaviour.test_session import receiving
from tests.proxy import TcpProxy

pytestmark = [pytest.mark.never("sqlite3"), through_proxy]

RETRY = 5.0


@pytest.fixture
def away(request: pytest.FixtureRequest) -> Iterator[tuple[str, TcpProxy]]:
    """An alias whose server refuses connections, with a pool that has had some."""
    settings = connections.settings["default"]
    retry = getattr(request, "param", RETRY)
    with (
        TcpProxy(settings["HOST"], int(settings["PORT"])) as proxy,
        another_alias(HOST=proxy.host, PORT=str(proxy.port), POOL={"CONNECT_RETRY": retry}) as alias,
    ):
        pooling.set_pool_size(4, max_outstanding=4, alias=alias)
        assert_whole(alias)
        proxy.refuse()
        proxy.drop()
        yield alias, proxy


def growth(alias: str) -> Any:
    [pool] = registry.pools(alias)
    return pool.growth.of((None, pool.current))


def test_requests_that_begin_while_the_server_restarts_wait_for_it(away: tuple[str, TcpProxy]) -> None:
    alias, proxy = away

    def back_in_a_moment() -> None:
        eventually(lambda: growth(alias).away)
        time.sleep(0.5)
        proxy.resume()

    in_threads([back_in_a_moment] + [lambda: token(alias)] * 12)
    assert not growth(alias).away
    assert_whole(alias)


def test_an_attempt_that_failed_keeps_nobodys_end_from_being_noticed(away: tuple[str, TcpProxy]) -> None:
    alias, proxy = away

    def back_in_a_moment() -> None:
        eventually(lambda: growth(alias).away)
        proxy.resume()

    gc.collect()
    gc.disable()
    try:
        in_threads([back_in_a_moment] + [lambda: token(alias)] * 4)
        assert_whole(alias)
    finally:
        gc.enable()


@pytest.mark.parametrize("away", [0.3], indirect=True)
def test_when_it_stays_away_all_get_djangos_error_and_it_is_used_again_at_once(
    away: tuple[str, TcpProxy],
) -> None:
    alias, proxy = away

    def fails() -> str:
        with pytest.raises(OperationalError) as caught:
            token(alias)
        return str(caught.value)

    errors = in_threads([fails] * 12)
    assert not any("No connection from pool" in error for error in errors), errors
    assert growth(alias).outage
    assert in_thread(fails) in errors
    assert pooling.stats(alias).in_use == pooling.stats(alias).opening == 0
    proxy.resume()
    token(alias)
    assert_whole(alias)


# psycopg2's wait callbacks know no timeout.
@pytest.mark.never("psycopg2", "gevent")
@pytest.mark.parametrize("away", [1.0], indirect=True)
def test_while_one_probes_a_silent_server_the_others_fail_soon(away: tuple[str, TcpProxy]) -> None:
    alias, proxy = away

    def fails() -> list[str]:
        with pytest.raises(OperationalError) as caught:
            token(alias)
        return getattr(caught.value.__cause__ or caught.value, "__notes__", [])

    fails()
    proxy.resume()
    proxy.deaf()
    others: list[list[str]] = []

    def others_meanwhile() -> None:
        eventually(lambda: pooling.stats(alias).opening == 1)
        # Each waits a quarter of a second for what the one finds.
        for _ in range(2):
            others.append(fails())
        assert pooling.stats(alias).opening == 1, "it was not soon"

    in_threads([fails, others_meanwhile])
    assert all("not tried again" in notes[0] for notes in others), others
    proxy.resume()
    token(alias)
    assert_whole(alias)


def test_a_wrong_password_is_not_tried_again() -> None:
    created: list[int] = []
    with another_alias(PASSWORD="wrong", USER="nobody") as alias:
        with (
            receiving(connection_created, lambda **kwargs: created.append(1)),
            pytest.raises(OperationalError),
        ):
            token(alias)
        assert not growth(alias).away
        assert pooling.stats(alias).opening == 0
    assert not created


def test_where_the_server_takes_nobody_in_what_we_have_serves_all() -> None:
    """Its limit is reached by us and others; Django alone would fail."""
    with limited_user(most=2) as (user, password), another_alias(USER=user, PASSWORD=password) as alias:
        pooling.set_pool_size(6, max_outstanding=6, alias=alias)

        def work() -> None:
            for _ in range(5):
                token(alias)

        in_threads([work] * 8)
        stats = pooling.stats(alias)
        assert stats.opened <= 2 + stats.closed
        assert len(registry.pools(alias)[0]) == 2


class limited_user:
    """A user of the server's who may have so many connections."""

    def __init__(self, most: int) -> None:
        self.name = f"limited_{DRIVER}"
        self._most = most

    def __enter__(self) -> tuple[str, str]:
        name, most = self.name, self._most
        with plain() as wrapper, wrapper.cursor() as cursor:
            if MYSQL:
                limit = f"WITH MAX_USER_CONNECTIONS {most}"
                cursor.execute(f"CREATE USER '{name}'@'%%' IDENTIFIED BY 'secret' {limit}", [])
                cursor.execute(f"GRANT ALL ON *.* TO '{name}'@'%%'", [])
            else:
                cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' CONNECTION LIMIT {most}")
                cursor.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
        return name, "secret"

    def __exit__(self, *exc_info: object) -> None:
        with plain() as wrapper, wrapper.cursor() as cursor:
            if MYSQL:
                cursor.execute(f"DROP USER '{self.name}'@'%%'", [])
            else:
                cursor.execute(f"DROP OWNED BY {self.name}")
                cursor.execute(f"DROP ROLE {self.name}")
