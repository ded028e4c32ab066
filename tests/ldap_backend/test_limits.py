"""How many connections there are, how old they get, and what code can do about that."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError

from django_db_pooling import pooling
from django_db_pooling.pool import maintenance
from tests.concurrency import PATIENCE, eventually
from tests.ldap_backend.conftest import Configure, a_request, ask, held, in_use, spent
from tests.slapd import Slapd


def idle(alias: str) -> int:
    return pooling.stats(alias).idle


def test_conn_max_age(configure: Configure, server: Slapd) -> None:
    alias = configure(CONN_MAX_AGE=0.1)
    ask()
    eventually(lambda: idle(alias) == 0)
    eventually(lambda: server.monitor().connections == 0)
    ask()
    assert pooling.stats(alias).opened == 2


def test_conn_max_age_none_is_no_limit(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    alias = configure(CONN_MAX_AGE=None, POOL={"MAX_AGE": 0.0})
    ask()
    ask()
    assert pooling.stats(alias).opened == 1


def test_health_checks_ask_the_server_before_each_use(configure: Configure, server: Slapd) -> None:
    configure(CONN_HEALTH_CHECKS=True)
    ask()
    before = server.monitor()
    ask()
    # Twice: a query is two operations.
    assert spent(server, before) == {"searches": 4}


def test_health_checks_notice_what_a_look_at_the_socket_does_not(
    configure: Configure, server: Slapd, proxy: Any
) -> None:
    alias = configure(NAME=f"ldap://{proxy.host}:{proxy.port}", CONN_HEALTH_CHECKS=True)
    ask()
    proxy.cut()
    ask()
    assert pooling.stats(alias).opened == 2


def test_is_usable(alias: str) -> None:
    assert connections[alias].is_usable()
    with connections[alias].cursor():
        assert connections[alias].is_usable()
    assert in_use(alias) == 0


def test_idle_timeout_and_min_size(configure: Configure, server: Slapd) -> None:
    alias = configure(POOL={"SIZE": 4, "IDLE_TIMEOUT": 0.1, "MIN_SIZE": 1})
    with held(4):
        assert server.monitor().connections == 4
    eventually(lambda: server.monitor().connections == 1)
    ask()
    assert pooling.stats(alias).opened == 4


def test_min_size_is_opened_ahead(configure: Configure, server: Slapd) -> None:
    alias = configure(POOL={"MIN_SIZE": 3})
    ask()
    eventually(lambda: idle(alias) == 3)
    assert server.monitor().connections == 3
    ask()
    assert pooling.stats(alias).opened == 3


def test_idle_connections_over_size_are_closed(
    configure: Configure, server: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "EXCESS_STAYS", 0.0)
    configure(POOL={"SIZE": 2})
    with held(5):
        assert server.monitor().connections == 5
    eventually(lambda: server.monitor().connections == 2)


def test_set_pool_size(alias: str, server: Slapd) -> None:
    with held(4):
        pass
    eventually(lambda: idle(alias) == 4)
    pooling.set_pool_size(1, max_outstanding=2, alias=alias)
    eventually(lambda: server.monitor().connections == 2)
    assert (pooling.stats(alias).size, pooling.stats(alias).max_outstanding) == (1, 2)
    ask()


def test_recycle(alias: str, server: Slapd) -> None:
    with held(1):
        ask()
        assert idle(alias) == 1
        pooling.recycle(alias)
        assert idle(alias) == 0
    eventually(lambda: server.monitor().connections == 0)
    ask()
    assert pooling.stats(alias).opened == 3


def test_a_new_password_applies_from_the_next_connection_on(configure: Configure, server: Slapd) -> None:
    alias = configure()
    ask()
    connections.settings[alias] |= {"USER": server.user_dn(1), "PASSWORD": server.user_password(1)}
    connections[alias].close()
    del connections[alias]
    with connections[alias].cursor() as cursor:
        assert cursor.connection.whoami_s() == f"dn:{server.user_dn(1)}"


def test_close_all(alias: str, server: Slapd) -> None:
    with held(1):
        ask()
        assert not pooling.close_all(alias)
        eventually(lambda: server.monitor().connections == 1)
    assert pooling.close_all(alias, timeout=PATIENCE)
    eventually(lambda: server.monitor().connections == 0)
    ask()


def test_closing_a_wrapper_gives_the_connection_back(configure: Configure) -> None:
    alias = configure(POOL={"SCOPE": "request"})
    with a_request():
        ask()
        connections[alias].close()
        assert (in_use(alias), idle(alias)) == (0, 1)
        ask()
    assert pooling.stats(alias).opened == 1


def test_release(configure: Configure) -> None:
    alias = configure(POOL={"SCOPE": "request"})
    with a_request():
        ask()
        assert in_use(alias) == 1
        pooling.release(alias)
        assert (in_use(alias), idle(alias)) == (0, 1)
        ask()
        with transaction.atomic(using=alias), pytest.raises(TransactionManagementError):
            pooling.release(alias)
    assert pooling.stats(alias).opened == 1


def test_pin(alias: str, server: Slapd) -> None:
    with a_request():
        pooling.pin(alias)
        assert in_use(alias) == 1
        ask()
        assert (in_use(alias), pooling.stats(alias).pins) == (1, 1)
    assert in_use(alias) == 0
    # A session of which nobody knows what was done to it can't be made as new.
    assert idle(alias) == 0
    ask()
    assert pooling.stats(alias).opened == 2


def test_a_scope_set_by_code(alias: str) -> None:
    with pooling.scope("request"):
        ask()
        assert in_use(alias) == 1
    assert (in_use(alias), idle(alias)) == (0, 1)


def test_stats(alias: str) -> None:
    with held(2):
        ask()
        stats = pooling.stats(alias)
        assert (stats.in_use, stats.idle, stats.opening, stats.waiting) == (2, 1, 0, 0)
    stats = pooling.stats()[alias]
    assert (stats.in_use, stats.idle, stats.opened, stats.closed) == (0, 3, 3, 0)
    assert stats.checkouts == 2 + 2
    assert stats.held_seconds >= stats.busy_seconds > 0
    assert (stats.pins, stats.resets, stats.broken, stats.reclaimed, stats.timeouts) == (0, 0, 0, 0, 0)
