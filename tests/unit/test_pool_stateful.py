"""Anything in any order, one caller after the other; then many at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from django_db_pooling import pool as pool_module
from django_db_pooling.limits import Limits
from django_db_pooling.pool import CheckoutTimeout
from django_db_pooling.slot import Slot
from tests.unit.fakes import PASSED, Clock, FakePool
from tests.unit.storm import Storm

ROOT = Path(__file__).parent.parent.parent


class Hand:
    """Holds a slot, and can let go of it. Hypothesis keeps this object, and not the slot."""

    def __init__(self, slot: Slot) -> None:
        self.slot: Slot | None = slot

    def __repr__(self) -> str:
        return f"<{'nothing' if self.slot is None else self.slot.number}>"

    def let_go(self) -> Slot:
        slot, self.slot = self.slot, None
        assert slot is not None
        return slot


class PoolMachine(RuleBasedStateMachine):
    bare = Bundle("bare")
    used = Bundle("used")
    gone = Bundle("gone")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.patch = mock.patch.object(pool_module, "time", self.clock)
        self.patch.start()
        # Slots in somebody's hands, of which we know that they count.
        self.hands: set[Hand] = set()
        # There may be more than max_outstanding only for as long as they were there before it shrank.
        self.allowed = 0

    @initialize(size=st.integers(1, 3), more=st.integers(0, 2), least=st.integers(0, 2))
    def begin(self, size: int, more: int, least: int) -> None:
        self.pool = FakePool(
            size=size,
            max_outstanding=size + more,
            min_size=min(size, least),
            max_age=100.0,
            idle_timeout=50.0,
        )
        self.driver = self.pool.driver
        self.allowed = size + more

    def hold(self, slot: Slot) -> Hand:
        hand = Hand(slot)
        self.hands.add(hand)
        return hand

    def free(self, hand: Hand) -> Slot:
        self.hands.discard(hand)
        return hand.let_go()

    # -- rules ------------------------------------------------------------------------------

    def checkout(self) -> Slot | None:
        before, cap = len(self.pool), self.pool.limits.max_outstanding
        idle = self.pool.snapshot().idle
        try:
            slot = self.pool.checkout(PASSED, "machine")
        except CheckoutTimeout:
            assert cap is not None
            assert before - idle >= cap or len(self.pool) >= cap, "refused while a slot was free"
            assert self.pool.snapshot().idle == 0, "refused while a connection was idle"
            return None
        if slot.connection is None:
            assert cap is None or len(self.pool) <= cap, "opened beyond the cap"
        else:
            assert slot.connection.looks is not False, "a dead connection was handed out"
            assert self.clock.now < slot.expires_at, "an old connection was handed out"
        return slot

    @rule(target=bare)
    def check_out_bare(self) -> Any:
        slot = self.checkout()
        if slot is None or slot.connection is not None:
            if slot is not None:
                self.pool.give(slot)
            return multiple()
        return self.hold(slot)

    @rule(target=used)
    def check_out_and_open(self) -> Any:
        slot = self.checkout()
        if slot is None:
            return multiple()
        if slot.connection is None:
            self.pool.fill(slot)
        return self.hold(slot)

    @rule(target=used, hand=consumes(bare))
    def open(self, hand: Hand) -> Hand:
        assert hand.slot is not None
        self.pool.fill(hand.slot)
        return hand

    @rule(hand=consumes(bare), connected=st.booleans())
    def fail_to_open(self, hand: Hand, connected: bool) -> None:
        slot = self.free(hand)
        if connected:
            slot.connection = self.driver.connect()
        self.pool.open_failed(slot, OSError())

    @rule(hand=consumes(used))
    def check_in(self, hand: Hand) -> None:
        self.pool.give(self.free(hand))

    @rule(hand=consumes(used))
    def check_in_blindly(self, hand: Hand) -> None:
        """As who looked whether it is kept before the pool changed."""
        self.pool.checkin(self.free(hand))

    @rule(hand=consumes(used))
    def close(self, hand: Hand) -> None:
        self.pool.close(self.free(hand))

    @rule(target=gone, hand=consumes(used), broken=st.booleans())
    def discard(self, hand: Hand, broken: bool) -> Hand:
        self.hands.discard(hand)
        assert hand.slot is not None
        self.pool.discard(hand.slot, broken=broken)
        return hand

    @rule(hand=gone, end=st.sampled_from(["discard", "close", "checkin"]))
    def end_again(self, hand: Hand, end: str) -> None:
        assert hand.slot is not None
        getattr(self.pool, end)(hand.slot)

    @rule(hand=consumes(used))
    def drop_the_reference(self, hand: Hand) -> None:
        self.free(hand)

    @rule(hand=consumes(bare))
    def drop_a_bare_one(self, hand: Hand) -> None:
        self.free(hand)

    @precondition(lambda self: self.pool.idle_connections)
    @rule(data=st.data(), looks=st.sampled_from([None, False]))
    def die_while_idle(self, data: st.DataObject, looks: bool | None) -> None:
        data.draw(st.sampled_from(self.pool.idle_connections)).looks = looks

    @rule(hand=used)
    def die_in_use(self, hand: Hand) -> None:
        assert hand.slot is not None
        hand.slot.connection.looks = False
        self.pool.death_seen()

    @rule(size=st.integers(1, 3), more=st.integers(0, 2), least=st.integers(0, 2))
    def resize(self, size: int, more: int, least: int) -> None:
        self.pool.resize(
            Limits(
                size=size,
                max_outstanding=size + more,
                min_size=min(size, least),
                max_age=100.0,
                idle_timeout=50.0,
            )
        )
        self.allowed = max(self.allowed, size + more)
        assert len(self.pool) <= size + more or not self.pool.idle_connections

    @rule()
    def recycle(self) -> None:
        self.pool.recycle()
        assert not self.pool.idle_connections

    @rule(seconds=st.sampled_from([1, 11, 51, 101]))
    def maintain(self, seconds: int) -> None:
        self.clock.now += seconds
        before = len(self.pool)
        self.pool.maintain()
        assert len(self.pool) <= before
        assert all(connection.looks is not False for connection in self.pool.idle_connections)

    @rule(target=bare)
    def reserve_the_minimum(self) -> Any:
        before = len(self.pool)
        slot = self.pool.reserve_minimum()
        if slot is None:
            return multiple()
        assert before < self.pool.limits.min_size
        return self.hold(slot)

    # -- invariants -------------------------------------------------------------------------

    @invariant()
    def slots_are_idle_or_opening_or_in_use(self) -> None:
        stats = self.pool.snapshot()
        opening = [hand for hand in self.hands if hand.slot and hand.slot.connection is None]
        assert stats.opening == len(opening)
        assert stats.in_use == len(self.hands) - len(opening)
        assert len(self.pool) == stats.idle + stats.opening + stats.in_use
        assert stats.waiting == 0

    @invariant()
    def there_are_no_more_than_allowed(self) -> None:
        assert len(self.driver.open) <= len(self.pool) <= self.allowed
        cap = self.pool.limits.max_outstanding
        assert cap is not None
        self.allowed = max(cap, len(self.pool))

    @invariant()
    def every_open_connection_has_one_place(self) -> None:
        idle = [connection.number for connection in self.pool.idle_connections]
        used = [hand.slot.connection.number for hand in self.hands if hand.slot and hand.slot.connection]
        assert sorted(idle + used) == sorted(self.driver.open)
        assert len(self.pool.connections()) == len(idle + used)

    @invariant()
    def opened_and_closed_add_up(self) -> None:
        stats = self.pool.snapshot()
        assert stats.opened - stats.closed == stats.idle + stats.in_use

    def teardown(self) -> None:
        try:
            if hasattr(self, "pool"):
                self.give_everything_back()
        finally:
            self.patch.stop()

    def give_everything_back(self) -> None:
        for hand in list(self.hands):
            slot = self.free(hand)
            if slot.connection is None:
                self.pool.discard(slot)
            else:
                self.pool.give(slot)
        cap = self.pool.limits.max_outstanding
        assert cap is not None
        held = [self.pool.take_now() for _ in range(cap)]
        assert len(held) == len(self.driver.open) == cap
        with pytest.raises(CheckoutTimeout):
            while len(held) <= self.allowed:
                held.append(self.pool.checkout(PASSED))


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, database=None)


@pytest.mark.parametrize("seed", range(1, 3))
def test_a_storm_of_threads_loses_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connects, looks and closes fail, slots are dropped, deadlines pass; threads switch often."""
    monkeypatch.setattr(pool_module, "LINGER", 0.0)
    monkeypatch.setattr(pool_module, "LOOK_AROUND", 3600.0)
    monkeypatch.setattr(pool_module.logger, "disabled", True)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        Storm(seed, 1.5).run()
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("seed", range(1, 3))
def test_a_storm_of_greenlets_loses_nothing(seed: int) -> None:
    """As above, and greenlets are killed and timed out wherever they switch."""
    pytest.importorskip("gevent")
    command = [sys.executable, "-m", "tests.unit.storm", str(seed), "1.5"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
