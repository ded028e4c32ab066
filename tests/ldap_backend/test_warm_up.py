"""Connections to a directory that are opened in advance, and asked something while nobody uses them."""

from __future__ import annotations

import time

import pytest
from django.db import OperationalError

from django_db_pooling import pooling
from django_db_pooling.registry import registry
from tests.concurrency import eventually
from tests.ldap_backend.conftest import Configure, assert_whole, spent
from tests.proxy import TcpProxy
from tests.slapd import Slapd


def test_so_many_are_bound_before_the_first_query(alias: str, server: Slapd) -> None:
    before = server.monitor()
    pooling.warm_up(alias, 8)
    assert pooling.stats(alias).idle == 8
    assert spent(server, before)["binds"] >= 8
    assert_whole(alias, server)
    assert pooling.stats(alias).opened == 8


def test_what_binding_raises_is_raised_and_nothing_is_left(configure: Configure) -> None:
    alias = configure(PASSWORD="wrong")
    with pytest.raises(Exception, match="(?i)invalid credentials"):
        pooling.warm_up(alias, 3)
    eventually(lambda: len(registry.pools(alias)[0]) == 0)


def test_a_silent_directory_leaves_nothing_half_open(
    configure: Configure, proxy: TcpProxy, server: Slapd
) -> None:
    alias = configure(NAME=f"ldap://{proxy.host}:{proxy.port}")
    proxy.deaf()
    with pytest.raises(OperationalError):
        pooling.warm_up(alias, 8, timeout=0.5)
    proxy.drop()
    eventually(lambda: len(registry.pools(alias)[0]) == 0)
    proxy.resume()
    assert_whole(alias, server)


def test_idle_ones_are_asked_and_one_that_does_not_answer_is_closed(
    configure: Configure, proxy: TcpProxy, server: Slapd
) -> None:
    alias = configure(NAME=f"ldap://{proxy.host}:{proxy.port}", POOL={"PING": 0})
    pooling.warm_up(alias, 2)
    before = server.monitor()
    time.sleep(2.5)
    assert spent(server, before)["searches"] >= 2
    assert (pooling.stats(alias).idle, pooling.stats(alias).broken) == (2, 0)
    proxy.deaf()
    eventually(lambda: pooling.stats(alias).broken == 1)
    proxy.resume()
    assert_whole(alias, server)
