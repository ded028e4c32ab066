"""The questions to a lease, and to a wrapper that may have one: no Django's settings, no database."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from django_db_pooling.backend.base import LeaseHolder
from django_db_pooling.backend.lease import Lease, State
from django_db_pooling.drivers.base import Driver
from django_db_pooling.pool.slot import Slot


class Connection:
    def __init__(self, is_open: bool = True, unread: bool = False, transaction: bool | None = False) -> None:
        self.is_open = is_open
        self.unread = unread
        self.transaction = transaction


class StubDriver(Driver):
    def fileno(self, connection: Connection) -> int | None:
        return 7 if connection.is_open else None

    def unread(self, connection: Connection) -> bool:
        return connection.unread

    def in_transaction(self, connection: Connection) -> bool | None:
        return connection.transaction


class StubPool:
    """As far as a lease and its wrapper ask it."""

    def __init__(self) -> None:
        self.driver = StubDriver()
        self.counts = SimpleNamespace(pins=0)
        self.discarded: list[Slot] = []

    def reclaim(self, slot: Slot) -> None:
        pass

    def give_up(self, slot: Slot) -> None:
        self.discarded.append(slot)


IDENTITY = SimpleNamespace(learned={"version": 9}, autocommit=True)
OFF = SimpleNamespace(learned={}, autocommit=False)


def lease(
    connection: Connection | None = None, by_transaction: bool = True, identity: Any = IDENTITY
) -> Lease:
    slot = Slot(StubPool(), 1, 0, None)
    slot.connection = connection or Connection()
    return Lease(slot, identity, by_transaction)


class Wrapper(LeaseHolder):
    """What Django's __init__ sets, as far as a lease goes."""

    def __init__(self) -> None:
        self.settings_dict: dict[str, Any] = {"AUTOCOMMIT": True, "CONN_HEALTH_CHECKS": False}
        self.connection: Any = None
        self.autocommit = False
        self.in_atomic_block = self.closed_in_transaction = self.needs_rollback = False
        self.atomic_blocks: list[Any] = []
        self.savepoint_ids: list[str] = []
        self.run_on_commit: list[Any] = []
        self.rollback_exc: Exception | None = None
        self._thread_sharing_count = 0


@pytest.mark.parametrize(
    ("connection", "clean", "damaged"),
    [
        (Connection(), True, False),
        (Connection(transaction=True), False, False),
        (Connection(transaction=None), False, False),
        (Connection(unread=True), False, True),
        (Connection(is_open=False), False, True),
        (Connection(is_open=False, unread=True, transaction=True), False, True),
    ],
)
def test_clean_and_damaged(connection: Connection, clean: bool, damaged: bool) -> None:
    one = lease(connection)
    assert one.is_clean(autocommit=True) is clean
    assert one.is_clean(autocommit=False) is False
    assert one.is_damaged() is damaged


@pytest.mark.parametrize("known", [True, False, None])
def test_with_autocommit_changed_there_is_always_a_transaction(known: bool | None) -> None:
    one = lease(Connection(transaction=known))
    assert one.in_transaction(autocommit=True) is known
    assert one.in_transaction(autocommit=False) is True
    off = lease(Connection(transaction=known), identity=OFF)
    assert off.in_transaction(autocommit=False) is known
    assert off.in_transaction(autocommit=True) is True


def is_over(
    begun_by_text: bool = False, autocommit: bool = True, identity: Any = IDENTITY, **how: Any
) -> bool:
    one = lease(Connection(**how), identity=identity)
    one.has_begun_by_text = begun_by_text
    return one.is_over(autocommit)


def test_over() -> None:
    assert is_over()
    # The driver knows better than the text: there was a COMMIT.
    assert is_over(begun_by_text=True)
    assert not is_over(transaction=True)
    assert not is_over(autocommit=False)
    assert not is_over(autocommit=False, identity=OFF)
    # Autocommit is on, though the settings turn it off.
    assert not is_over(identity=OFF)


def test_over_where_only_the_server_knows() -> None:
    assert is_over(transaction=None)
    assert not is_over(transaction=None, begun_by_text=True)
    assert not is_over(transaction=None, autocommit=False)
    assert not is_over(transaction=None, identity=OFF)


@pytest.mark.parametrize("how", [{"is_open": False}, {"unread": True}])
@pytest.mark.parametrize("transaction", [True, False, None])
def test_what_is_damaged_is_never_over(how: dict[str, bool], transaction: bool | None) -> None:
    assert not is_over(transaction=transaction, **how)


def test_needed() -> None:
    assert lease(by_transaction=False).is_needed
    one = lease()
    assert not one.is_needed
    one.pinned = True
    assert one.is_needed
    one.pinned = False
    one.cursors.add(object())  # type: ignore[arg-type]
    assert one.is_needed


def test_a_new_lease_knows_nothing_of_another() -> None:
    before = lease()
    before.cursors.add(object())  # type: ignore[arg-type]
    before.params["user"] = "me"
    after = lease()
    assert (after.pinned, after.executed, after.has_begun_by_text, after.manual) == (False,) * 4
    assert not after.was_in_transaction
    assert (after.cursors, after.params, after.busy_since) == (set(), {}, 0.0)


# -- the states of a wrapper ------------------------------------------------------------------------


def test_held_is_exactly_with_a_lease() -> None:
    for vacant in State:
        wrapper = Wrapper()
        wrapper._vacant = vacant
        assert wrapper.state is vacant
        assert wrapper.slot is None
        wrapper._lease = lease()
        assert wrapper.state is State.HELD
        assert wrapper.slot is wrapper._lease.slot


def test_what_there_is_to_give_back() -> None:
    for vacant, has_lease, rests, in_block, shared in itertools.product(
        [State.FREE, State.AWAITED, State.LOST], [False, True], [False, True], [False, True], [0, 1]
    ):
        wrapper = Wrapper()
        wrapper._vacant, wrapper.in_atomic_block, wrapper._thread_sharing_count = vacant, in_block, shared
        wrapper._lease = lease() if has_lease else None
        wrapper._resting = object() if rests else None  # type: ignore[assignment]
        awaited = vacant is State.AWAITED and in_block
        assert wrapper.is_awaited is (awaited and not has_lease)
        assert wrapper.is_shared is bool(shared)
        assert wrapper.holds is (not shared and (has_lease or rests or awaited or vacant is State.LOST))


def test_a_claim_lasts_as_long_as_the_block_or_else_the_checkout() -> None:
    wrapper = Wrapper()
    assert wrapper.claim is None
    wrapper._resting = rest = object()  # type: ignore[assignment]
    assert wrapper.claim is rest
    wrapper._lease = one = lease()
    claim = wrapper.claim
    assert claim not in (None, rest)
    assert wrapper.claim == claim
    one.slot.taken_at += 1.0
    assert wrapper.claim != claim
    outer = object()
    wrapper.in_atomic_block, wrapper.atomic_blocks = True, [outer, object()]
    assert wrapper.claim is outer
    wrapper._lease = lease()
    assert wrapper.claim is outer


def test_in_transaction() -> None:
    wrapper = Wrapper()
    wrapper.autocommit = True
    assert not wrapper.in_transaction
    for known in (True, False, None):
        wrapper._lease = lease(Connection(transaction=known))
        assert wrapper.in_transaction is (known is True)
    wrapper.autocommit = False
    assert wrapper.in_transaction
    wrapper._lease = None
    assert not wrapper.in_transaction
    wrapper._vacant = State.LOST
    assert not wrapper.in_transaction
    wrapper.connection = object()
    assert wrapper.in_transaction
    wrapper._vacant, wrapper.in_atomic_block = State.FREE, True
    assert wrapper.in_transaction


def test_adopting_leaves_nothing_of_before() -> None:
    wrapper = Wrapper()
    wrapper.in_atomic_block = wrapper.closed_in_transaction = wrapper.needs_rollback = True
    wrapper.errors_occurred = True
    wrapper.savepoint_ids, wrapper.atomic_blocks, wrapper.run_on_commit = ["s"], [object()], [object()]
    one = lease()
    wrapper.adopt(one)
    assert wrapper.state is State.HELD
    assert wrapper.connection is one.slot.connection
    assert (wrapper.in_atomic_block, wrapper.closed_in_transaction, wrapper.needs_rollback) == (False,) * 3
    assert (wrapper.savepoint_ids, wrapper.atomic_blocks, wrapper.run_on_commit) == ([], [], [])
    assert not wrapper.errors_occurred
    # It was looked at by the checkout.
    assert wrapper.health_check_done
    assert wrapper.autocommit is True
    assert vars(wrapper)["version"] == 9


@pytest.mark.parametrize("in_block", [False, True])
def test_the_end_of_a_lease(in_block: bool) -> None:
    wrapper = Wrapper()
    wrapper._lease = one = lease()
    wrapper.in_atomic_block = in_block
    wrapper.rollback_exc = error = ValueError()
    assert wrapper.end_lease() is one
    assert wrapper.slot is None
    assert wrapper.rollback_exc is (error if in_block else None)


@pytest.mark.parametrize("in_block", [False, True])
def test_without_a_connection_a_block_awaits_one(in_block: bool) -> None:
    wrapper = Wrapper()
    wrapper.connection, wrapper.in_atomic_block = object(), in_block
    wrapper._vacant = State.LOST
    wrapper.unset_connection()
    assert wrapper.connection is None
    assert wrapper.state is (State.AWAITED if in_block else State.FREE)
    assert wrapper.holds is in_block


def test_a_block_that_is_lost_fails_to_its_end() -> None:
    wrapper = Wrapper()
    wrapper.in_atomic_block = True
    wrapper.run_on_commit = [object()]
    wrapper.lose_block()
    assert wrapper.state is State.LOST
    assert wrapper.closed_in_transaction
    assert wrapper.needs_rollback
    assert wrapper.in_atomic_block
    assert wrapper.run_on_commit == []
    assert wrapper.holds


@pytest.mark.parametrize("vacant", [State.FREE, State.AWAITED, State.LOST])
def test_after_its_scope_nothing_is_left(vacant: State) -> None:
    wrapper = Wrapper()
    wrapper._vacant = vacant
    wrapper.connection = object()
    wrapper.in_atomic_block = wrapper.closed_in_transaction = wrapper.needs_rollback = True
    wrapper.rollback_exc = ValueError()
    wrapper.savepoint_ids, wrapper.atomic_blocks, wrapper.run_on_commit = ["s"], [object()], [object()]
    wrapper.clear_state()
    untouched = vars(Wrapper())
    assert {name: vars(wrapper)[name] for name in untouched} == untouched
    assert wrapper.state is State.FREE
    assert not wrapper.holds


def test_discarding_gives_the_slot_up() -> None:
    wrapper = Wrapper()
    wrapper._lease = one = lease()
    wrapper.connection = one.slot.connection
    for _ in range(2):
        wrapper.discard()
        assert one.pool.discarded == [one.slot]
        assert (wrapper.connection, wrapper.state) == (None, State.FREE)


def test_a_pin_counts_once() -> None:
    wrapper = Wrapper()
    wrapper.pin()
    wrapper._lease = one = lease()
    wrapper.pin()
    wrapper.pin()
    assert one.pinned
    assert one.pool.counts.pins == 1
