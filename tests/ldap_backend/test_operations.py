"""A connection is held for one operation, unless it was asked for longer."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import connections, transaction

from django_db_pooling import pooling
from tests.concurrency import PATIENCE, eventually, in_threads
from tests.ldap_backend.conftest import (
    USERS,
    Configure,
    Setting,
    a_request,
    ask,
    assert_whole,
    in_a_request,
    in_use,
    mail,
    new,
)
from tests.ldap_backend.models import Group, User
from tests.slapd import TEAMS, Slapd

THREADS = 24


def test_nothing_is_held_between_operations(alias: str) -> None:
    with a_request():
        ask()
        assert in_use(alias) == 0
        user = new()
        user.save()
        assert in_use(alias) == 0
        user.uid += "x"
        user.save()
        assert in_use(alias) == 0
        user.delete()
        assert in_use(alias) == 0
    assert pooling.stats(alias).opened == 1


def test_nothing_is_held_in_a_block(alias: str) -> None:
    with a_request(), transaction.atomic(using=alias):
        ask(1)
        assert in_use(alias) == 0
        with transaction.atomic(using=alias):
            ask(2)
            new().save()
            assert in_use(alias) == 0
    assert in_use(alias) == 0


def test_in_request_scope_it_is_held_to_the_end_of_the_request(configure: Configure) -> None:
    alias = configure(POOL={"SCOPE": "request"})
    with a_request():
        ask(1)
        assert in_use(alias) == 1
        with transaction.atomic(using=alias):
            ask(2)
        assert in_use(alias) == 1
    assert in_use(alias) == 0
    # Not outside of requests.
    ask(3)
    assert in_use(alias) == 0
    assert pooling.stats(alias).checkouts == 3


def test_outside_of_requests_nothing_is_held(everywhere: Setting) -> None:
    def work() -> None:
        ask()
        assert in_use(everywhere.alias) == 0

    in_threads([work])


def test_nested_iteration_needs_one_connection(everywhere: Setting) -> None:
    found = {}
    for group in Group.objects.exclude(name="leaders").iterator():
        with transaction.atomic(using=everywhere.alias):
            found[group.name] = [
                other.name for uid in sorted(group.members)[:2] for other in of_user(uid).iterator()
            ]
    assert found == {f"team{team}": [f"team{team}"] * 2 for team in range(TEAMS)}
    assert pooling.stats(everywhere.alias).opened == 1


def of_user(uid: str) -> Any:
    return Group.objects.filter(members__contains=uid)


@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_nested_iteration_over_pages(scope: str, configure: Configure, server: Slapd) -> None:
    pool = {"SIZE": 1, "MAX_OUTSTANDING": 1, "SCOPE": scope}
    alias = configure(POOL=pool, CONNECTION_OPTIONS={"page_size": 7})
    searches = server.monitor().searches
    with a_request():
        for outer, user in enumerate(User.objects.iterator()):
            if outer % 10 == 0:
                assert [other.uid for other in User.objects.iterator()] == [*map(Slapd.uid, range(USERS))]
                ask(outer)
            assert user.uid == Slapd.uid(outer)
    assert outer == USERS - 1
    # Twice for each query, and a page at a time.
    pages = -(-USERS // 7)
    assert server.monitor().searches - searches == 2 * pages * 5 + 2 * 4
    assert pooling.stats(alias).opened == 1


def test_pages_of_several_threads_are_not_mixed_up(configure: Configure, server: Slapd) -> None:
    alias = configure(POOL={"SIZE": 2, "MAX_OUTSTANDING": 2}, CONNECTION_OPTIONS={"page_size": 3})

    def read() -> list[str]:
        return [user.uid for user in User.objects.iterator()]

    assert in_threads([in_a_request(read)] * 8) == [[*map(Slapd.uid, range(USERS))]] * 8
    assert_whole(alias, server)


def test_an_abandoned_iterator_holds_nothing(everywhere: Setting) -> None:
    iterator = User.objects.iterator()
    next(iterator)
    if everywhere.scope == "transaction":
        assert in_use(everywhere.alias) == 0
    ask()
    search = connections[everywhere.alias].search_s(Slapd.base_dn, 2)
    next(search)
    if everywhere.scope == "transaction":
        assert in_use(everywhere.alias) == 0
    ask()
    del iterator, search
    ask()
    assert pooling.stats(everywhere.alias).opened == 1


def test_hooks_run_after_a_block(everywhere: Setting) -> None:
    ran = []

    def hook() -> None:
        ran.append((mail(), in_use(everywhere.alias)))

    with transaction.atomic(using=everywhere.alias):
        ask(1)
        transaction.on_commit(hook, using=everywhere.alias)
        with transaction.atomic(using=everywhere.alias):
            transaction.on_commit(hook, using=everywhere.alias)
        assert not ran
    held = 1 if everywhere.scope == "request" else 0
    assert ran == [(mail(), held)] * 2


def test_hooks_of_a_block_that_failed_do_not_run(everywhere: Setting) -> None:
    ran = []
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=everywhere.alias):
        ask()
        transaction.on_commit(lambda: ran.append(1), using=everywhere.alias)
        raise ZeroDivisionError
    assert not ran
    transaction.on_commit(lambda: ran.append(2), using=everywhere.alias)
    assert ran == [2]


def test_after_an_error_in_a_block_others_can_work(everywhere: Setting) -> None:
    with pytest.raises(User.DoesNotExist), transaction.atomic(using=everywhere.alias):
        User.objects.get(uid="nobody")
    ask()


def test_atomic_requests_hold_nothing(configure: Configure) -> None:
    from django.test import Client

    alias = configure(ATOMIC_REQUESTS=True)
    assert Client().get("/mail/user007").content == b"user007@example.org"
    assert (in_use(alias), pooling.stats(alias).opened) == (0, 1)


# -- many at once ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["request", "transaction"])
@pytest.mark.parametrize("most", [1, 8])
def test_many_at_once_share_the_connections_and_get_their_own_answers(
    scope: str, most: int, configure: Configure, server: Slapd
) -> None:
    alias = configure(POOL={"SIZE": most, "MAX_OUTSTANDING": most, "SCOPE": scope})
    seen, over = [], threading.Event()

    def sample() -> None:
        while not over.is_set():
            seen.append(server.monitor().connections)

    def work(number: int) -> None:
        for turn in range(5):
            with a_request():
                ask((number + turn) % USERS)
                with transaction.atomic(using=alias):
                    ask(number)
        user = new(uid=f"new{number}", mail=f"{number}@example.org")
        user.save()
        assert User.objects.get(uid=f"new{number}").mail == f"{number}@example.org"
        user.delete()

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        in_threads([lambda number=number: work(number) for number in range(THREADS)])
    finally:
        over.set()
        sampler.join(PATIENCE)
    assert max(seen) <= most
    eventually(lambda: in_use(alias) == 0)
    assert pooling.stats(alias).opened <= most
    assert_whole(alias, server)


def test_many_at_once_while_the_server_takes_its_time(
    configure: Configure, server: Slapd, proxy: Any
) -> None:
    """All eight connections are in use."""
    alias = configure(NAME=f"ldap://{proxy.host}:{proxy.port}")
    proxy.delay(0.005)
    in_threads([in_a_request(lambda number=number: ask(number)) for number in range(THREADS)])
    assert 2 <= pooling.stats(alias).opened <= 8
    assert server.monitor().connections <= 8
    assert_whole(alias, server)
