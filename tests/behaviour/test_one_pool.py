"""An alias has one pool, and one cap, whatever settings its wrappers have and however these change."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any
from uuid import uuid4

import pytest
from django.db import OperationalError, connections
from django.db.backends.signals import connection_created

from benchmarks.calls import counting
from django_db_pooling import pooling
from django_db_pooling.database_pool import DatabasePool, Identity
from django_db_pooling.pool import slots
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    MYSQL,
    PATIENCE,
    another_alias,
    assert_whole,
    eventually,
    held,
    in_thread,
    in_threads,
    one,
    token,
)
from tests.behaviour.observer import DRIVER, Observer

CAP = 4
TOKENS = "tests.behaviour.token_engine"


class Most:
    """The most connections to the test database that the server has had."""

    number = 0


@contextmanager
def watching(observer: Observer) -> Iterator[Most]:
    """The server is asked all the time. On a busy machine it takes its time for a goodbye."""
    most, is_over = Most(), threading.Event()
    usual, slots.CLOSE_WAIT = slots.CLOSE_WAIT, PATIENCE

    def watch() -> None:
        while not is_over.wait(0.005):
            most.number = max(most.number, observer.count())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        slots.CLOSE_WAIT = usual
        is_over.set()
        watcher.join(PATIENCE)


def use(wrapper: Any) -> None:
    """A statement of a wrapper that isn't the alias's own."""
    with wrapper.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert list(cursor.fetchall()) == [(1,)]


def copy_of(alias: str, **changes: Any) -> Any:
    copy = connections[alias].copy()
    copy.settings_dict.update(changes)
    return copy


# -- a backend that writes into its settings ------------------------------------------------------------


def test_a_token_for_each_connect_opens_one_for_six_requests(observer: Observer) -> None:
    with another_alias(ENGINE=TOKENS) as alias:
        for _ in range(6):
            in_thread(lambda: token(alias))
        eventually(lambda: pooling.stats(alias).in_use == 0)
        assert (pooling.stats(alias).opened, pooling.stats(alias).idle, observer.count()) == (1, 1, 1)


def test_tokens_never_open_more_than_the_cap(observer: Observer) -> None:
    with another_alias(ENGINE=TOKENS) as alias, watching(observer) as most:
        for _ in range(4):
            in_threads([lambda: [token(alias) for _ in range(20)]] * 12)
        assert_whole(alias)
        assert 0 < most.number <= CAP
        assert pooling.stats(alias).opened <= CAP


def test_settings_that_others_change_during_a_connect_are_noticed(observer: Observer) -> None:
    """What was opened with the old ones is used by whoever asked for it, and by nobody else."""
    for engine in (connections.settings["default"]["ENGINE"], TOKENS):
        with another_alias(ENGINE=engine) as alias:

            def change(connection: Any, alias: str = alias, **kwargs: Any) -> None:
                if connection.alias == alias:
                    connections.settings[alias]["CONN_HEALTH_CHECKS"] = True

            connection_created.connect(change)
            try:
                in_thread(lambda: token(alias))
            finally:
                connection_created.disconnect(change)
            eventually(lambda: pooling.stats(alias).in_use == 0)
            assert pooling.stats(alias).idle == 0
            eventually(lambda: observer.count() == 0)
            for _ in range(3):
                in_thread(lambda: token(alias))
            eventually(lambda: pooling.stats(alias).idle == 1)
            assert pooling.stats(alias).opened == 2


# -- aliases that come and go ----------------------------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_nothing_is_left_of_aliases_that_were_used_once_and_removed(observer: Observer) -> None:
    one()
    before = descriptors()
    names = [f"tenant_{uuid4().hex}" for _ in range(150)]
    for name in names:
        connections.settings[name] = deepcopy(connections.settings["default"])
        in_thread(lambda name=name: token(name))  # type: ignore[misc]
        with suppress(AttributeError):
            del connections[name]
        del connections.settings[name]
    eventually(lambda: not set(names) & {pool.name for pool in registry.pools()})
    eventually(lambda: descriptors() <= before + 2)


def test_an_alias_that_is_back_is_pooled_as_before() -> None:
    for _ in range(2):
        with another_alias() as alias:
            in_thread(lambda: one(alias))
            settings_dict = connections.settings.pop(alias)
            eventually(lambda: alias not in registry.by_alias)
            connections.settings[alias] = settings_dict
            for _ in range(3):
                in_thread(lambda: token(alias))
            eventually(lambda: pooling.stats(alias).idle == 1)
            assert pooling.stats(alias).opened == 1
            assert_whole(alias)


def test_a_copy_of_a_name_that_the_settings_do_not_have_leaves_no_pool(observer: Observer) -> None:
    name = f"elsewhere_{uuid4().hex}"
    copy = connections["default"].copy(alias=name)
    use(copy)
    copy.close()
    assert len(registry.by_alias[name]) == 1
    pooling.close_all()
    eventually(lambda: name not in registry.by_alias)
    use(copy)
    copy.close()
    assert len(registry.by_alias[name]) == 1
    pooling.close_all()
    eventually(lambda: observer.count() == 0)


def test_a_pool_that_is_forgotten_while_a_wrapper_finds_it_is_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with another_alias() as alias:
        in_thread(lambda: one(alias))
        eventually(lambda: pooling.stats(alias).idle == 1)
        pool, find = registry.by_alias[alias], DatabasePool.identity_of

        def forget_and_find(self: DatabasePool, wrapper: Any) -> Identity:
            if self is pool:
                pool.close_idle(lambda affinity: True)
                pool.closing = True
                registry._forget_ended()
            return find(self, wrapper)

        monkeypatch.setattr(DatabasePool, "identity_of", forget_and_find)
        copy = copy_of(alias, TENANT=1)
        use(copy)
        assert copy._identity.pool is registry.by_alias[alias] is not pool
        copy.close()
        assert pooling.stats(alias).idle == 1


# -- copies with other settings ---------------------------------------------------------------------------


def calls_of_a_checkout(alias: str) -> int:
    def calls() -> int:
        with counting() as count:
            one(alias)
            connections[alias].close()
        return count.package

    one(alias)
    connections[alias].close()
    return min(calls() for _ in range(5))


def test_two_hundred_copies_with_other_settings_are_one_pool(observer: Observer) -> None:
    pooling.set_pool_size(CAP, max_outstanding=CAP)
    with another_alias() as alias, watching(observer) as most:
        calls = calls_of_a_checkout(alias)
        copies = [copy_of(alias, TENANT=number) for number in range(200)]
        for copy in copies:
            use(copy)
            copy.close()
        assert [pool.name for pool in registry.pools(alias)] == [alias]
        assert pooling.stats(alias).opened == 201
        assert pooling.stats(alias).idle == CAP
        assert calls_of_a_checkout(alias) <= calls
        # Nor does the pool keep what it knew of those that have no connection any more.
        eventually(lambda: len(registry.by_alias[alias].identities) <= CAP + 1)
        in_threads([lambda number=number: use_and_close(copies[number]) for number in range(12)])
        assert 0 < most.number <= CAP
        assert_whole(alias)


def use_and_close(copy: Any) -> None:
    # As one that was made in this thread.
    copy.inc_thread_sharing()
    try:
        use(copy)
        copy.close()
    finally:
        copy.dec_thread_sharing()


def test_settings_of_other_names_are_other_settings_whatever_their_values() -> None:
    with another_alias() as alias:
        for number, name in enumerate(("READER", "WRITER", "READER", "WRITER")):
            copy = copy_of(alias, **{name: "somebody"})
            use(copy)
            copy.close()
            assert pooling.stats(alias).opened == min(number + 1, 2)


def server_that_is_away() -> dict[str, Any]:
    if DRIVER == "sqlite3":
        return {"NAME": "/nowhere/at/all.sqlite3"}
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return {"HOST": "127.0.0.1", "PORT": str(closed.getsockname()[1])}


def test_a_copy_whose_server_is_away_keeps_nobody_else_from_connecting() -> None:
    with another_alias(POOL={"CONNECT_RETRY": 0.2}) as alias:
        pooling.set_pool_size(CAP, max_outstanding=CAP, timeout=30, alias=alias)
        away, is_over = server_that_is_away(), threading.Event()
        failures: list[Exception] = []

        def fail() -> None:
            copy = copy_of(alias, **away)
            while not is_over.is_set():
                with pytest.raises(OperationalError) as caught:
                    use(copy)
                failures.append(caught.value)
                time.sleep(0.01)

        def work() -> None:
            try:
                eventually(lambda: failures)
                for _ in range(10):
                    in_threads([lambda: token(alias)] * CAP)
                    registry.by_alias[alias].recycle()
            finally:
                is_over.set()

        in_threads([fail, work])
        assert_whole(alias)


def test_at_the_cap_the_one_unused_longest_gives_way(observer: Observer) -> None:
    pooling.set_pool_size(CAP, max_outstanding=CAP)
    with another_alias() as alias:
        copies = [copy_of(alias, TENANT=number) for number in range(CAP + 1)]

        def is_opened_for(number: int) -> bool:
            opened = pooling.stats(alias).opened
            use(copies[number])
            copies[number].close()
            return pooling.stats(alias).opened > opened

        assert [is_opened_for(number) for number in range(CAP)] == [True] * CAP
        assert not is_opened_for(0)
        assert is_opened_for(CAP)
        assert [is_opened_for(number) for number in (0, 2, 3, CAP)] == [False] * CAP
        assert observer.count() == CAP
        assert is_opened_for(1)


def test_a_copy_that_waits_for_long_keeps_its_place(observer: Observer) -> None:
    """Meanwhile the housekeeper forgets the settings of copies that have no connection."""
    pooling.set_pool_size(1, max_outstanding=1)
    order: list[str] = []
    with another_alias() as alias:
        copy = copy_of(alias, TENANT=1)
        with held(1, alias) as let_go:

            def copied() -> None:
                copy.inc_thread_sharing()
                use(copy)
                order.append("copy")
                copy.close()
                copy.dec_thread_sharing()

            def another() -> None:
                eventually(lambda: pooling.stats(alias).waiting == 1)
                one(alias)
                order.append("another")

            def release() -> None:
                eventually(lambda: pooling.stats(alias).waiting == 2)
                # Longer than it takes the housekeeper to come by.
                time.sleep(2.5)
                let_go()

            in_threads([copied, another, release])
        assert order == ["copy", "another"]
        assert_whole(alias)


# -- other settings in the middle --------------------------------------------------------------------------


@pytest.fixture
def second_user(observer: Observer) -> Iterator[dict[str, Any]]:
    """The settings of another user; where there are no users, of other OPTIONS."""
    if DRIVER == "sqlite3":
        yield {"OPTIONS": {"timeout": 7}}
        return
    name, database = f"second_{uuid4().hex[:8]}", observer.name
    if MYSQL:
        observer.rows(f"CREATE USER '{name}'@'%' IDENTIFIED BY 'secret'")
        observer.rows(f"GRANT ALL ON {database}.* TO '{name}'@'%'")
    else:
        observer.rows(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    yield {"USER": name, "PASSWORD": "secret"}
    pooling.close_all()
    observer.rows(f"DROP USER '{name}'@'%'" if MYSQL else f"DROP ROLE {name}")


def test_a_user_rotated_while_both_are_in_use_has_one_cap(
    observer: Observer, second_user: dict[str, Any]
) -> None:
    together = threading.Barrier(2)

    with another_alias() as alias:

        def use_for_long() -> None:
            together.wait(PATIENCE)
            for _ in range(10):
                token(alias)
                time.sleep(0.01)

        with watching(observer) as most:
            with held(2, alias):
                # What is idle, too.
                in_threads([lambda: one(alias)] * 2)
                connections.settings[alias].update(second_user)
                in_threads([use_for_long] * 2)
                assert pooling.stats(alias).in_use == 2
                in_threads([lambda: [token(alias) for _ in range(10)]] * 12)
            in_threads([lambda: [token(alias) for _ in range(10)]] * 12)
            assert_whole(alias)
        assert 0 < most.number <= CAP
        # Those of the first user are gone.
        eventually(lambda: observer.count() == pooling.stats(alias).idle)
        assert len(registry.by_alias[alias].identities) == 1


def test_the_figures_of_an_alias_are_those_of_one_pool(second_user: dict[str, Any]) -> None:
    with another_alias() as alias:
        in_thread(lambda: one(alias))
        before = pooling.stats(alias)
        connections.settings[alias].update(second_user)
        in_thread(lambda: one(alias))
        eventually(lambda: pooling.stats(alias).in_use == 0)
        after = pooling.stats(alias)
        assert (after.opened, after.closed, after.checkouts) == (before.opened + 1, 1, before.checkouts + 1)
        assert after.held_seconds > before.held_seconds
        assert after.closed_by_reason["recycled"] == 1


# -- a cold pool ---------------------------------------------------------------------------------------------


def test_a_cold_pool_refuses_nobody_who_waits_for_a_turn_to_open(observer: Observer) -> None:
    def slow(connection: Any, **kwargs: Any) -> None:
        time.sleep(0.05)

    connection_created.connect(slow)
    try:
        with another_alias(
            POOL={"SIZE": 100, "MAX_OUTSTANDING": 100, "MAX_WAITING": 5, "TIMEOUT": 30}
        ) as alias:
            pooling.set_pool_size(100, max_outstanding=100, timeout=30, alias=alias)
            in_threads([lambda: [token(alias) for _ in range(3)]] * 50)
            stats = pooling.stats(alias)
            assert (stats.timeouts, stats.checkouts) == (0, 50)
            assert stats.opened == observer.count() <= 50
    finally:
        connection_created.disconnect(slow)
