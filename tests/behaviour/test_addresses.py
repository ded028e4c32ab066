"""POOL["FOLLOW_HOST"]: a name that comes to lead elsewhere."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connections

from django_db_pooling import addresses, pooling
from django_db_pooling.handler import host_watch
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    GEVENT,
    another_alias,
    assert_whole,
    eventually,
    in_threads,
    request,
    token,
)
from tests.proxy import TcpProxy

# PyMySQL has Python look names up: those of tests, too.
pytestmark = [pytest.mark.only("pymysql"), pytest.mark.transaction_scope]

NAME = "db.that-moves.test"
FIRST, SECOND = "127.0.0.1", "127.0.0.2"


@pytest.fixture
def leads_to(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where the name leads: change it in place."""
    # Under gevent the hub's resolver is asked by all.
    asked: Any = importlib.import_module("gevent").get_hub().resolver if GEVENT else socket
    found, plain = [FIRST], asked.getaddrinfo

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != NAME:
            return plain(host, *args, **kwargs)
        if not found:
            raise socket.gaierror("nobody knows")
        return [answer for address in found for answer in plain(address, *args, **kwargs)]

    monkeypatch.setattr(asked, "getaddrinfo", look_up)
    return found


@pytest.fixture
def moving(leads_to: list[str]) -> Iterator[tuple[str, TcpProxy, TcpProxy]]:
    settings = connections.settings["default"]
    host, port = settings["HOST"], int(settings["PORT"])
    with (
        TcpProxy(host, port) as first,
        TcpProxy(host, port, SECOND, first.port) as second,
        another_alias(HOST=NAME, PORT=str(first.port), POOL={"FOLLOW_HOST": 0}) as alias,
    ):
        pooling.set_pool_size(4, max_outstanding=4, alias=alias)
        busy(alias)
        eventually(lambda: (alias, NAME) in host_watch._known)
        yield alias, first, second


def busy(alias: str) -> None:
    in_threads([lambda: request(lambda: token(alias))] * 4)


def test_when_it_leads_elsewhere_everything_follows(
    moving: tuple[str, TcpProxy, TcpProxy], leads_to: list[str]
) -> None:
    alias, first, second = moving
    assert (first.connections > 0, second.connections) == (True, 0)
    leads_to[:] = [SECOND]
    eventually(lambda: first.connections == 0)
    busy(alias)
    assert second.connections > 0
    assert_whole(alias)


def test_another_order_or_a_part_of_the_addresses_changes_nothing(
    moving: tuple[str, TcpProxy, TcpProxy], leads_to: list[str]
) -> None:
    alias, first, _ = moving
    generation = registry.pools(alias)[0].slots.generation
    for answer in ([SECOND, FIRST], [FIRST], [FIRST, SECOND]):
        leads_to[:] = answer
        host_watch.every_second()
    assert registry.pools(alias)[0].slots.generation == generation
    assert first.connections > 0


def test_a_look_up_that_fails_changes_nothing(
    moving: tuple[str, TcpProxy, TcpProxy], leads_to: list[str]
) -> None:
    alias, first, second = moving
    leads_to.clear()
    assert host_watch.every_second()
    request(lambda: token(alias))
    leads_to[:] = [SECOND]
    eventually(lambda: first.connections == 0)
    request(lambda: token(alias))
    assert second.connections == 1


def test_without_the_key_nothing_is_looked_up() -> None:
    request(token)
    assert ("default", connections.settings["default"]["HOST"]) not in host_watch._known


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("/run/mysqld/mysqld.sock", set()),
        ("", set()),
        ("127.0.0.1", {"127.0.0.1"}),
        ("127.0.0.1,127.0.0.2", {"127.0.0.1", "127.0.0.2"}),
    ],
)
def test_hosts(host: str, found: set[str]) -> None:
    assert addresses.addresses(host) == found
