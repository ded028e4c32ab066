"""POOL["CREDENTIALS"]: asked for at each connect, and no part of what tells connections apart."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections

from django_db_pooling import pooling
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    MYSQL,
    another_alias,
    assert_whole,
    in_threads,
    one,
    request,
    sql,
    token,
)
from tests.behaviour.test_opening import change_password
from tests.behaviour.test_outage import limited_user

pytestmark = [
    pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2"),
    # Requests begin and end where these tests say so.
    pytest.mark.transaction_scope,
]

SECRET = "secret-that-nobody-may-read"


class Vault:
    """Gives a user and the password that is right at the moment, or what it was told to give."""

    def __init__(self, user: str, password: str) -> None:
        self.user, self.password = user, password
        self.asked: list[str] = []
        self.stale: list[str] = []
        self.error: Exception | None = None

    def __call__(self, alias: str) -> dict[str, Any]:
        self.asked.append(alias)
        if self.error is not None:
            raise self.error
        password = self.stale.pop() if self.stale else self.password
        return {"USER": self.user, "PASSWORD": password}


@pytest.fixture
def vault() -> Iterator[Vault]:
    with limited_user(most=20) as (user, password):
        yield Vault(user, password)


@pytest.fixture
def alias(vault: Vault) -> Iterator[str]:
    with another_alias(USER="nobody", PASSWORD="", POOL={"CREDENTIALS": vault}) as alias:
        pooling.set_pool_size(4, max_outstanding=4, alias=alias)
        yield alias


def user_of(alias: str) -> str:
    statement = "SELECT CURRENT_USER()" if MYSQL else "SELECT current_user"
    return str(sql(statement, using=alias)[0][0]).partition("@")[0]


def test_they_are_asked_for_at_each_connect_and_at_no_checkout(alias: str, vault: Vault) -> None:
    for _ in range(5):
        assert request(lambda: user_of(alias)) == vault.user
    assert vault.asked == [alias]
    assert connections.settings[alias]["USER"] == "nobody"
    in_threads([lambda: request(lambda: token(alias))] * 6)
    assert len(vault.asked) == pooling.stats(alias).opened
    assert len(registry.pools(alias)[0].identities) == 1
    assert_whole(alias)


def test_another_answer_is_the_same_pool(alias: str, vault: Vault) -> None:
    request(lambda: token(alias))
    vault.user = "somebody who can't connect"
    # Whoever has a connection goes on with it.
    for _ in range(3):
        request(lambda: token(alias))
    assert (len(vault.asked), pooling.stats(alias).opened) == (1, 1)


def test_an_answer_that_the_server_refuses_is_asked_for_once_more(alias: str, vault: Vault) -> None:
    """As between a change of the password at the server and the moment when a cache knows of it."""
    vault.stale = ["of yesterday"]
    request(lambda: token(alias))
    assert len(vault.asked) == 2
    assert pooling.stats(alias).opened == 1
    assert_whole(alias)


def test_a_second_refusal_is_the_caller_s_error(alias: str, vault: Vault) -> None:
    vault.stale = ["of the day before", "of yesterday"]
    with pytest.raises(OperationalError):
        request(lambda: token(alias))
    assert len(vault.asked) == 2
    assert (pooling.stats(alias).in_use, pooling.stats(alias).opening) == (0, 0)
    request(lambda: token(alias))


def test_a_rotation_fails_nobody(alias: str, vault: Vault) -> None:
    request(lambda: token(alias))
    change_password(vault.user, "another")
    vault.password = "another"
    pooling.recycle(alias)
    in_threads([lambda: request(lambda: token(alias))] * 6)
    assert_whole(alias)


def test_what_it_raises_is_told_without_its_words(
    alias: str, vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "django_db_pooling")
    vault.error = RuntimeError(f"token {SECRET}")
    with pytest.raises(OperationalError, match="CREDENTIALS raised RuntimeError") as caught:
        request(lambda: token(alias))
    assert SECRET not in str(caught.value)
    registry.pools(alias)[0].journal.write(is_last=True)
    assert SECRET not in caplog.text
    assert SECRET not in str(pooling.stats(alias))
    vault.error = None
    request(lambda: token(alias))


def test_while_it_fails_idle_connections_serve(alias: str, vault: Vault) -> None:
    request(lambda: token(alias))
    vault.error = RuntimeError("the vault is sealed")
    in_threads([lambda: request(lambda: token(alias))] * 6)
    assert pooling.stats(alias).opened == 1


def test_options_are_added_to_those_of_the_settings(vault: Vault) -> None:
    name = "connect_timeout"
    options = connections.settings["default"]["OPTIONS"] | {name: 7}
    seen: list[dict[str, Any]] = []

    def credentials(alias: str) -> dict[str, Any]:
        return vault(alias) | {"OPTIONS": {name: 9}}

    with another_alias(OPTIONS=options, POOL={"CREDENTIALS": credentials}) as alias:
        wrapper = connections[alias]
        plain = type(wrapper).get_connection_params

        def noting(self: Any) -> dict[str, Any]:
            params: dict[str, Any] = plain(self)
            seen.append(params)
            return params

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wrapper, "get_connection_params", noting.__get__(wrapper))
            one(alias)
        assert seen[0][name] == 9
        assert connections.settings[alias]["OPTIONS"][name] == 7


def test_what_it_may_not_give_is_refused(vault: Vault) -> None:
    with (
        another_alias(POOL={"CREDENTIALS": lambda alias: {"HOST": "elsewhere"}}) as alias,
        pytest.raises(OperationalError, match="HOST"),
    ):
        one(alias)


def test_what_is_no_callable_is_an_error() -> None:
    with (
        another_alias(POOL={"CREDENTIALS": "nowhere.to.be_found"}) as alias,
        pytest.raises(ImproperlyConfigured, match="CREDENTIALS"),
    ):
        one(alias)
