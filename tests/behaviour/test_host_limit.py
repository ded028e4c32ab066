"""HOST_LIMIT: this process and another one together have no more, and errors say who has how many."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.test import override_settings

from django_db_pooling import checks, conf, host_limit, pooling
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.registry import registry
from tests.behaviour.conftest import another_alias, eventually, held, in_thread, in_threads, one, token
from tests.behaviour.neighbour import Neighbour, neighbour

LIMIT = 4
POOL = {"HOST_LIMIT": LIMIT, "SIZE": 2, "TIMEOUT": 0.5}


class Shared(NamedTuple):
    alias: str
    other: Neighbour
    path: Path

    @property
    def stats(self) -> Any:
        return pooling.stats(self.alias)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    changes = {"POOL": POOL}
    with override_settings(DB_POOL_STATUS_DIR=str(tmp_path)), another_alias(**changes) as alias:
        # As the settings say.
        conf._overrides.clear()
        pooling.patch()
        with neighbour(alias, {"POOL": POOL | {"TIMEOUT": 20}}, str(tmp_path)) as other:
            assert other.use(1) == [1, 0]
            [path] = tmp_path.glob("**/*.lock")
            yield Shared(alias, other, path)


def test_the_error_says_who_has_them(shared: Shared) -> None:
    assert shared.other.use(3) == [3, 0]
    with held(1, shared.alias):
        assert (shared.stats.host_limit, shared.stats.host_open) == (4, 4)
        began = time.monotonic()
        with pytest.raises(PoolTimeout, match="HOST_LIMIT 4, 4 open in 2 processes") as raised:
            in_thread(lambda: one(shared.alias))
        assert time.monotonic() - began < 5
        assert raised.value.waited >= 0.5
        assert "1 in use, 0 idle" in str(raised.value)
    # What is idle is this process's, and another one's connections don't matter.
    in_thread(lambda: token(shared.alias))
    assert shared.stats.host_open == 4


@pytest.mark.transaction_scope
def test_the_same_in_transaction_scope(shared: Shared) -> None:
    test_the_error_says_who_has_them(shared)


def test_all_that_the_others_leave(shared: Shared) -> None:
    """MAX_OUTSTANDING is as large as the limit where it is left out."""
    assert shared.stats.max_outstanding == LIMIT
    with held(3, shared.alias), pytest.raises(PoolTimeout):
        in_thread(lambda: one(shared.alias))
    shared.other.kill()
    with held(4, shared.alias), pytest.raises(PoolTimeout, match="HOST_LIMIT 4, 4 open in this process"):
        in_thread(lambda: one(shared.alias))


def test_killed_while_we_wait(shared: Shared) -> None:
    assert shared.other.use(4) == [4, 0]
    pooling.set_pool_size(2, timeout=20, alias=shared.alias)

    def kill() -> None:
        time.sleep(0.3)
        shared.other.kill()

    in_threads([lambda: token(shared.alias), kill])
    assert shared.stats.host_open == 1


def test_what_another_one_has_idle_is_ours_soon(shared: Shared) -> None:
    assert shared.other.use(4) == [4, 0]
    assert shared.other.use(0) == [0, 4]
    pooling.set_pool_size(2, timeout=20, alias=shared.alias)
    began = time.monotonic()
    in_thread(lambda: token(shared.alias))
    assert time.monotonic() - began < 10
    with held(4, shared.alias):
        assert shared.other.use(0) == [0, 0]


def test_who_is_in_a_transaction_elsewhere_waits_for_what_others_have(shared: Shared) -> None:
    """Nobody here could give it a connection, but another process can."""
    assert shared.other.use(4) == [4, 0]
    pooling.set_pool_size(2, timeout=20, alias=shared.alias)

    def waits() -> None:
        with pooling.scope("request"), transaction.atomic():
            one()
            token(shared.alias)

    def gives() -> None:
        time.sleep(0.5)
        shared.other.use(1)

    in_threads([waits, gives])


def test_what_is_lent_out_meanwhile_other_processes_may_have(shared: Shared) -> None:
    assert shared.other.use(3) == [3, 0]
    pooling.set_pool_size(2, max_outstanding=4, timeout=20, alias="default")
    waiting = threading.Event()

    def waits() -> None:
        with pooling.scope("request"):
            one(shared.alias)
            waiting.set()
            one()

    with held(4):
        thread = threading.Thread(target=waits)
        thread.start()
        assert waiting.wait(10)
        assert shared.other.use(4) == [4, 0]
    thread.join(10)
    assert not thread.is_alive()


def test_a_warm_up_asks_the_others(shared: Shared) -> None:
    assert shared.other.use(4) == [4, 0]
    assert shared.other.use(0) == [0, 4]
    pooling.warm_up(shared.alias, 2, timeout=15)
    assert (shared.stats.idle, shared.stats.host_open) == (2, 4)


def test_settings_that_lead_to_another_server(shared: Shared) -> None:
    """Its connections are counted there."""
    in_thread(lambda: one(shared.alias))
    assert shared.stats.host_open == 2
    [pool] = registry.pools(shared.alias)
    host_limit.follow(shared.alias, pool.settings_dict | {"HOST": "another"}, pool.slots)
    eventually(lambda: shared.stats.host_open == 1)
    assert shared.other.use(3) == [3, 0]
    host_limit.follow(shared.alias, pool.settings_dict, pool.slots)
    eventually(lambda: shared.stats.host_open == 4)


def test_a_limit_that_is_changed_while_it_runs(shared: Shared) -> None:
    with held(2, shared.alias):
        connections.settings[shared.alias]["POOL"] = POOL | {"HOST_LIMIT": None}
        registry.apply_limits()
        assert shared.stats.host_limit is None
        # From now on ours don't count.
        assert shared.other.use(4) == [4, 0]
        with held(2, shared.alias):
            pass
        connections.settings[shared.alias]["POOL"] = POOL
        registry.apply_limits()
        assert shared.stats.host_limit == 4


def test_an_alias_that_is_gone_and_back(shared: Shared) -> None:
    """Its bytes go with its pool, and those of the next one stay."""
    in_thread(lambda: one(shared.alias))
    assert shared.stats.host_open == 2
    settings = connections.settings.pop(shared.alias)
    try:
        eventually(lambda: not registry.pools(shared.alias))
    finally:
        connections.settings[shared.alias] = settings
    assert shared.other.use(3) == [3, 0]
    in_thread(lambda: one(shared.alias))
    assert shared.stats.host_open == 4


def test_its_descriptor_is_closed(shared: Shared) -> None:
    """By a daemon, with all others; whoever needs a connection has one at once."""
    one(shared.alias)
    connections[shared.alias].close()
    [pool] = registry.pools(shared.alias)
    assert pool.slots.host is not None
    os.close(pool.slots.host.locks._fd)
    pooling.close_all(shared.alias)
    in_thread(lambda: token(shared.alias))
    assert shared.stats.host_open == 2


@pytest.mark.parametrize("where", [None, "a file"])
def test_no_place_for_the_file(where: str | None, tmp_path: Path) -> None:
    """One clear error when the process starts, with what to do."""
    (tmp_path / "a file").touch()
    directory = None if where is None else str(tmp_path / where)
    with override_settings(DB_POOL_STATUS_DIR=directory), another_alias(POOL=POOL) as alias:
        with pytest.raises(
            ImproperlyConfigured, match=r'"HOST_LIMIT"\].*\(django_db_pooling.E009\)'
        ) as raised:
            conf.reject(checks.settings_errors())
        assert repr(alias) in str(raised.value)
        assert "Set DB_POOL_STATUS_DIR to" in str(raised.value)
