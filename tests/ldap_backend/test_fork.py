"""A process that forks with connections in every state keeps them; its child opens its own."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from django.db import connections, transaction

from django_db_pooling import pooling
from tests.concurrency import in_child, in_thread, silent_fork
from tests.ldap_backend.conftest import Configure, a_request, ask, assert_whole, held, in_use
from tests.slapd import Slapd

both_forks = pytest.mark.parametrize("fork", [os.fork, silent_fork], ids=["by Python", "by C"])


@both_forks
@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_a_child_opens_its_own_and_the_parents_go_on(
    scope: str, configure: Configure, server: Slapd, fork: Callable[[], int]
) -> None:
    alias = configure(POOL={"SCOPE": scope})

    def child() -> list[int]:
        for number in range(3):
            ask(number)
        stats = pooling.stats(alias)
        return [stats.opened, stats.idle, stats.in_use]

    with a_request(), transaction.atomic(using=alias):
        ask()
        with held(2):
            before = pooling.stats(alias)
            assert in_child(child, fork) == [1, 1, 0]
            after = pooling.stats(alias)
            assert (after.opened, after.idle, after.in_use) == (before.opened, before.idle, before.in_use)
        ask(3)
    in_thread(ask)
    assert (pooling.stats(alias).opened, pooling.stats(alias).broken) == (before.opened, 0)
    assert_whole(alias, server)


@both_forks
def test_a_child_that_unbinds_disturbs_nobody(
    configure: Configure, server: Slapd, fork: Callable[[], int]
) -> None:
    alias = configure(POOL={"SCOPE": "request"})

    def child() -> bool:
        connections.close_all()
        pooling.close_all()
        return True

    with a_request():
        ask()
        with held(1):
            pass
        raw = connections[alias].connection
        assert in_child(child, fork)
        ask()
        assert connections[alias].connection is raw
        assert server.monitor().connections == 2
        assert in_use(alias) == 1
    assert pooling.stats(alias).opened == 2
