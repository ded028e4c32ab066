"""More is asked for than the pool can give, for long: who has waited in vain leaves the others their turn."""

from __future__ import annotations

import time
from functools import partial

import pytest
from django.db import connections, transaction

from django_db_pooling import conf, pooling
from django_db_pooling.exceptions import PoolTimeout
from tests.behaviour.conftest import another_alias, assert_whole, in_threads, sql, token
from tests.behaviour.models import Note

# What a connection is held for, and how many come again and again: each would wait for 0.6 s.
HOLD, VISITORS = 0.05, 24
SIZE, SECONDS = 2, 4.0


class Visits:
    """Visitors who come again at once."""

    def __init__(self, alias: str, seconds: float) -> None:
        self.alias, self.until = alias, time.monotonic() + seconds
        self.waits: list[float] = []
        self.shed: list[PoolTimeout] = []

    def come(self) -> None:
        while time.monotonic() < self.until:
            began = time.monotonic()
            try:
                token(self.alias)
                self.waits.append(time.monotonic() - began)
                time.sleep(HOLD)
            except PoolTimeout as error:
                self.shed.append(error)
                # As long as it takes until another one comes in its place.
                time.sleep(HOLD)
            connections[self.alias].close()


def visits(target: float | None, visitors: int, seconds: float = SECONDS) -> Visits:
    with another_alias(POOL={"WAIT_TARGET": target}) as alias:
        pooling.set_pool_size(SIZE, max_outstanding=SIZE, timeout=20, alias=alias)
        before = pooling.stats(alias)
        made = Visits(alias, seconds)
        in_threads([made.come] * visitors)
        after = pooling.stats(alias)
        assert after.shed - before.shed == after.timeouts - before.timeouts == len(made.shed)
        assert after.waiting == after.in_use == 0
        assert_whole(alias)
        return made


def test_who_is_served_is_served_soon() -> None:
    without, with_it = visits(None, VISITORS), visits(0.1, VISITORS)
    assert without.shed == []
    # As many are served as before.
    assert len(with_it.waits) > 0.7 * len(without.waits)
    late = [sorted(each.waits[-20:])[10] for each in (without, with_it)]
    assert late[1] < 0.7 * late[0], late
    assert with_it.shed
    for error in with_it.shed:
        assert error.waited > 0.2 and error.alias.startswith("other")
        assert "shed after 0." in str(error) and "the pool is overloaded (WAIT_TARGET 0.1)" in str(error)


def test_a_load_that_it_can_take_sheds_nobody() -> None:
    assert visits(0.5, SIZE + 1, 2.5).shed == []


def test_a_burst_sheds_nobody() -> None:
    with another_alias(POOL={"WAIT_TARGET": 0.05}) as alias:
        pooling.set_pool_size(SIZE, max_outstanding=SIZE, timeout=20, alias=alias)

        def once() -> None:
            token(alias)
            time.sleep(0.02)
            connections[alias].close()

        in_threads([once] * 40)
        assert pooling.stats(alias).shed == 0


def test_after_a_pause_all_who_waited_are_served() -> None:
    with another_alias(POOL={"WAIT_TARGET": 0.1}) as alias:
        pooling.set_pool_size(SIZE, max_outstanding=SIZE, timeout=20, alias=alias)
        pooling.pause(alias, 1.5)
        in_threads([partial(token, alias)] * 12)
        assert pooling.stats(alias).shed == pooling.stats(alias).timeouts == 0


def test_nothing_is_begun_by_who_is_turned_away() -> None:
    """Its transaction has never been one, and it can go on."""
    with another_alias(POOL={"WAIT_TARGET": 0.05, "SCOPE": "transaction"}) as alias:
        pooling.set_pool_size(1, max_outstanding=1, timeout=20, alias=alias)
        until, written = time.monotonic() + 2.5, []

        def writes(number: int) -> None:
            count = 0
            while time.monotonic() < until:
                count += 1
                text = f"{number}/{count}"
                try:
                    with transaction.atomic(using=alias):
                        Note.objects.using(alias).create(text=text)
                        time.sleep(0.02)
                    written.append(text)
                except PoolTimeout as error:
                    assert error.alias == alias

        in_threads([partial(writes, number) for number in range(12)])
        assert pooling.stats(alias).shed > 0
        found = [row[0] for row in sql("SELECT text FROM behaviour_note", using=alias)]
        assert sorted(found) == sorted(written)


@pytest.mark.parametrize("value", [0, -1, "1", True, float("nan")])
def test_a_wrong_target_is_named(value: object) -> None:
    [problem] = conf.problems("default", {"POOL": {"WAIT_TARGET": value}})
    assert problem.id.endswith("E003") and "['WAIT_TARGET']" in problem.message.replace('"', "'")
    assert problem.hint == "It must be seconds, above 0, or None."
