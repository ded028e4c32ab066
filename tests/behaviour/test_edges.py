"""Where several things come together: a wait and a change of settings, a request inside of another."""

from __future__ import annotations

import copy
import threading
import time
from typing import Any

import pytest
from django.db import Error, OperationalError, connection, connections, transaction
from django.db.backends.signals import connection_created
from django.test import Client

from django_db_pooling import pooling
from django_db_pooling.backend import checkout
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    assert_whole,
    committed,
    eventually,
    held,
    in_thread,
    one,
    request_finished,
    request_started,
    server_id,
    token,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import Observer


def test_a_connection_that_fails_its_check_is_gone_when_no_other_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The check says no, and before a new one can be opened somebody else has taken the only slot."""
    pooling.set_pool_size(1, max_outstanding=1, timeout=0.2)
    one()
    connection.close()
    (pool,) = registry.pools("default")
    identity = pool.current
    assert identity is not None
    pool.suspect_all()
    somebody_else: list[Any] = []

    def unusable(*_: object) -> bool:
        pool.discard(connections["default"].slot)
        somebody_else.append(pool.checkout(affinity=identity.affinity()))
        return False

    with monkeypatch.context() as patch:
        patch.setattr(pool.driver, "usable", unusable)
        with pytest.raises(PoolTimeout):
            one()
    assert connection.connection is None
    pool.discard(somebody_else.pop())
    assert one() == 1


@pytest.mark.parametrize("opens", [True, False])
def test_what_cannot_be_reset_leaves_its_place_to_its_taker(
    opens: bool, observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who opens another connection in it, and has no slot more or less when that fails."""
    pooling.set_pool_size(1, max_outstanding=1, timeout=1)
    one()
    wrapper: Any = connections["default"]
    slot = wrapper.slot
    slot.dirty = slot.beyond_reset = True
    wrapper.abandon()
    opened = pooling.stats("default").opened
    if opens:
        token()
        assert wrapper.slot is slot
        assert pooling.stats("default").opened - opened == 1
        eventually(lambda: observer.count() == 1)
    else:

        def fails(self: Any, params: Any) -> Any:
            raise TimeoutError

        with monkeypatch.context() as patch:
            patch.setattr(type(wrapper), "get_new_connection", fails)
            with pytest.raises(TimeoutError):
                one()
        eventually(lambda: observer.count() == 0)
        assert pooling.stats("default").in_use == 0
    wrapper.close()
    assert_whole()


def test_settings_that_change_while_somebody_waits_are_those_it_gets() -> None:
    """It waits in the pool of what the settings said before."""
    pooling.set_pool_size(1, max_outstanding=1)
    settings_dict = connections.settings["default"]
    identities: list[Any] = []

    def wait_and_look() -> None:
        one()
        identities.append(connections["default"]._identity)

    with held(1):
        [old] = registry.pools("default")[0].identities
        waiting = threading.Thread(target=wait_and_look)
        waiting.start()
        eventually(lambda: pooling.stats("default").waiting == 1)
        time.sleep(2 * checkout.SHORT_WAIT)
        settings_dict["CONN_HEALTH_CHECKS"] = True
    waiting.join(10)
    try:
        assert identities and identities[0] is not old
    finally:
        settings_dict["CONN_HEALTH_CHECKS"] = False


def test_a_request_inside_of_a_transaction_by_hand_leaves_it_alone() -> None:
    transaction.set_autocommit(False)
    try:
        Note.objects.create(text="mine")
        Client().get("/nothing")
        transaction.commit()
    finally:
        transaction.set_autocommit(True)
    assert committed() == ["mine"]


def test_a_request_inside_of_another_leaves_its_connection_alone() -> None:
    request_started()
    mine = server_id()
    Client().get("/count")
    assert connection.slot is not None
    assert server_id() == mine
    request_finished()
    assert pooling.stats("default").in_use == 0


def test_a_shallow_copy_of_a_wrapper_has_no_part_in_its_connection() -> None:
    """Its close() would give back what the original goes on using."""
    one()
    twin = copy.copy(connections["default"])
    assert twin.connection is None
    twin.close()
    assert pooling.stats("default").in_use == 1
    assert connection.is_usable()


def test_a_receiver_of_connection_created_that_closes_gets_djangos_error_and_costs_no_slot() -> None:
    def close(connection: Any, **_: object) -> None:
        connection.close()

    connection_created.connect(close)
    try:
        with pytest.raises(OperationalError, match="connection_created"):
            one()
    finally:
        connection_created.disconnect(close)
    assert pooling.stats("default").in_use == 0
    assert one() == 1


def test_a_connection_closed_behind_djangos_back_gives_djangos_error() -> None:
    one()
    connection.connection.close()
    with pytest.raises(Error):
        one()
    connection.close()
    assert one() == 1
    assert pooling.stats("default").in_use == 1


def test_scope_does_not_decorate_what_runs_after_it() -> None:
    def generator() -> Any:
        yield one()

    async def coroutine() -> None:
        one()

    for function in (generator, coroutine):
        with pytest.raises(TypeError, match="scope"):
            pooling.scope()(function)


def test_all_connections_of_a_scope_go_back_though_one_cannot_be_cleaned() -> None:
    def work() -> None:
        with pooling.scope():
            one()
            twin = connection.copy()
            with twin.cursor() as cursor:
                cursor.execute("SELECT 1")
            twin.connection.close()

    in_thread(work)
    assert pooling.stats("default").in_use == 0
