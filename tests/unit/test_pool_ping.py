"""Idle connections that the housekeeping takes to ask them something."""

from __future__ import annotations

import math

from tests.unit.fakes import Clock, FakePool


def test_one_that_was_taken_comes_back_to_its_place(clock: Clock) -> None:
    pool = FakePool(size=5)
    pool.open_idle(4)
    for number, slot in enumerate(pool.slots.idle()):
        slot.returned_at += number
    before = pool.slots.idle()
    for slot in before:
        assert pool.slots.claim(slot)
        pool.slots.restore(slot)
        assert pool.slots.idle() == before


def test_the_servers_timeout_runs_from_its_last_word(clock: Clock) -> None:
    pool = FakePool(size=5, idle_timeout=None, max_age=None)
    pool.open_idle(2)
    for slot in pool.slots.idle():
        slot.server_timeout = 100.0
    asked, unasked = pool.slots.idle()
    clock.now += 60
    pool.validated(asked)
    clock.now += 60
    pool.maintain()
    assert pool.slots.idle() == [asked]
    # Who has used it lately needs no question, whatever is suspected of it.
    asked.returned_at, asked.validated_at = clock.now, -math.inf
    pool.maintain()
    assert pool.slots.idle() == [asked]
