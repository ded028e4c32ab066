"""What the server is asked for, by its own count."""

from __future__ import annotations

import pytest
from django.db import transaction

from django_db_pooling import pooling
from tests.ldap_backend.conftest import Configure, Setting, a_request, ask, in_use, mail, new, spent
from tests.ldap_backend.models import Group, User
from tests.slapd import Slapd


def test_a_get_on_a_warm_pool_is_no_bind_and_two_searches(everywhere: Setting, server: Slapd) -> None:
    ask(1)
    before = server.monitor()
    ask(2)
    assert spent(server, before) == {"searches": 2}


def test_a_get_on_a_cold_pool_is_one_bind(everywhere: Setting, server: Slapd) -> None:
    before = server.monitor()
    ask()
    assert spent(server, before) == {"binds": 1, "searches": 2}


def test_get_and_save_are_what_is_needed_and_no_bind(everywhere: Setting, server: Slapd) -> None:
    new(uid="new1").save()
    before = server.monitor()
    user = User.objects.get(uid="new1")
    user.mail = "new@example.org"
    user.save()
    assert spent(server, before) == {"searches": 4, "modifies": 1}


def test_create_and_delete_are_one_operation_each(everywhere: Setting, server: Slapd) -> None:
    ask()
    before = server.monitor()
    user = new(uid="new1")
    user.save(force_insert=True)
    assert spent(server, before) == {"adds": 1}
    user.delete()
    assert spent(server, before) == {"adds": 1, "deletes": 1}


def test_an_empty_block_costs_nothing(everywhere: Setting, server: Slapd) -> None:
    ask()
    pooling.release()
    before, checkouts = server.monitor(), pooling.stats(everywhere.alias).checkouts
    with transaction.atomic(using=everywhere.alias):
        pass
    assert spent(server, before) == {}
    if everywhere.scope == "transaction":
        assert pooling.stats(everywhere.alias).checkouts == checkouts


def test_an_empty_block_opens_nothing(alias: str, server: Slapd) -> None:
    before = server.monitor()
    with transaction.atomic(using=alias), transaction.atomic(using=alias):
        assert in_use(alias) == 0
    after = server.monitor()
    assert after == before
    assert pooling.stats(alias).checkouts == 0


def test_a_block_costs_what_is_in_it(everywhere: Setting, server: Slapd) -> None:
    ask()
    before = server.monitor()
    with transaction.atomic(using=everywhere.alias):
        ask(1)
        with transaction.atomic(using=everywhere.alias):
            ask(2)
    assert spent(server, before) == {"searches": 4}


@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_only_opening_a_connection_binds(scope: str, configure: Configure, server: Slapd) -> None:
    alias = configure(POOL={"SCOPE": scope})
    before = server.monitor()
    for number in range(10):
        with a_request():
            ask(number)
            list(Group.objects.all())
            with transaction.atomic(using=alias):
                mail(number)
    assert spent(server, before)["binds"] == pooling.stats(alias).opened == 1
    assert server.monitor().total_connections - before.total_connections == 1
