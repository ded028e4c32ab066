"""A pause: work that is under way ends, everybody else waits in line, and nobody fails who needn't."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils.connection import ConnectionDoesNotExist

from django_db_pooling import pooling
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.process import housekeeper
from django_db_pooling.registry import Registry, registry
from tests.behaviour.conftest import (
    another_alias,
    assert_whole,
    committed,
    eventually,
    in_thread,
    in_threads,
    one,
    server_id,
    sql,
    token,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import Observer


@pytest.fixture(autouse=True)
def resumed() -> Iterator[None]:
    yield
    pooling.resume()


def paused() -> float | None:
    return pooling.stats("default").paused


def test_callers_wait_in_line_and_no_connection_is_left(observer: Observer) -> None:
    timeouts = pooling.stats("default").timeouts
    in_threads([one] * 4)
    pooling.pause("default", 30)
    assert paused() == pytest.approx(30, abs=5)
    eventually(lambda: observer.count() == 0)
    done: list[int] = []

    def waits(number: int) -> None:
        token()
        done.append(number)

    def resumes() -> None:
        eventually(lambda: pooling.stats("default").waiting == 8)
        assert (done, observer.count(), pooling.stats("default").opening) == ([], 0, 0)
        pooling.resume("default")

    in_threads([resumes, *(partial(waits, number) for number in range(8))])
    assert paused() is None
    assert sorted(done) == list(range(8))
    assert pooling.stats("default").timeouts == timeouts
    assert_whole()


def test_a_transaction_goes_on_and_is_the_last_of_its_connection(observer: Observer) -> None:
    with transaction.atomic():
        Note.objects.create(text="before")
        before = server_id()
        in_thread(partial(pooling.pause, None, 30))
        Note.objects.create(text="meanwhile")
        assert server_id() == before
    # The request goes on, too.
    Note.objects.create(text="after")
    assert server_id() == before
    connection.close()
    eventually(lambda: observer.count() == 0)
    pooling.resume()
    assert committed() == ["before", "meanwhile", "after"]


def test_a_timeout_says_that_it_is_paused() -> None:
    pooling.set_pool_size(2, max_outstanding=4, timeout=0.2)
    pooling.pause(seconds=30)
    with pytest.raises(PoolTimeout, match="The pool is paused, for [23][0-9] s more") as caught:
        in_thread(one)
    assert 0.2 <= caught.value.waited < 5
    pooling.resume()
    in_thread(token)


def test_it_ends_by_itself() -> None:
    began = time.monotonic()
    pooling.pause("default", 1)
    in_threads([token] * 6)
    assert 1 <= time.monotonic() - began < 3
    assert paused() is None
    assert_whole()


def test_it_ends_by_itself_where_nobody_keeps_house(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Registry, "every_second", lambda self: True)
    began = time.monotonic()
    pooling.pause("default", 1)
    in_threads([token] * 6)
    assert 1 <= time.monotonic() - began < 3


@pytest.mark.parametrize(
    "how", ["longer", "shorter"], ids=["a longer one extends it", "a shorter one leaves it as it is"]
)
def test_paused_again_the_later_end_counts(how: str) -> None:
    pooling.pause("default", 5)
    pooling.pause("default", 60 if how == "longer" else 0.01)
    left = paused()
    assert left is not None and (left > 50) is (how == "longer") and left > 3


def test_no_minimum_is_kept_meanwhile(monkeypatch: pytest.MonkeyPatch, observer: Observer) -> None:
    monkeypatch.setattr(housekeeper, "TICK", 0.02)
    with another_alias(POOL={"MIN_SIZE": 2}) as alias:
        token(alias)
        eventually(lambda: len(registry.pools(alias)[0]) == 2)
        pooling.pause(alias, 60)
        # This request's own is its last; and another one may have been half-way open.
        eventually(lambda: len(registry.pools(alias)[0]) == 1)
        time.sleep(0.3)
        assert len(registry.pools(alias)[0]) == 1
        pooling.resume(alias)
        eventually(lambda: len(registry.pools(alias)[0]) == 2)


def test_one_that_has_no_pool_yet_begins_paused() -> None:
    with another_alias() as alias:
        pooling.pause(alias, 30)
        assert registry.pools(alias) == []
        assert pooling.stats(alias).paused is not None

        def resumes() -> None:
            eventually(lambda: pooling.stats(alias).waiting == 1)
            assert len(registry.pools(alias)[0]) == 0
            pooling.resume(alias)

        in_threads([resumes, partial(token, alias)])
        assert pooling.stats(alias).paused is None


def test_others_are_not_paused() -> None:
    with another_alias() as alias:
        pooling.pause(alias, 30)
        token()
        pooling.resume(alias)
        pooling.pause(seconds=30)
        assert pooling.stats(alias).paused is not None and paused() is not None


def test_who_holds_another_one_waits_and_goes_on_as_before() -> None:
    """It is in a transaction of another pool: that nobody comes back here is no reason to give up."""
    with another_alias() as alias:
        pooling.pause(alias, 30)

        def nests() -> None:
            with transaction.atomic():
                Note.objects.create(text="outer")
                token(alias)
                Note.objects.create(text="inner")

        def resumes() -> None:
            eventually(lambda: pooling.stats(alias).waiting == 1)
            time.sleep(0.2)
            pooling.resume(alias)

        in_threads([resumes, nests])
        assert committed() == ["outer", "inner"]


def test_what_was_lent_out_to_others_is_closed_too(observer: Observer) -> None:
    """Its user waits for another alias, and doesn't use it at this moment."""
    with another_alias() as alias:
        pooling.pause(alias, 30)

        def nests() -> None:
            token()
            token(alias)
            token()

        def pauses_this_one_too() -> None:
            eventually(lambda: pooling.stats(alias).waiting == 1)
            pooling.pause("default", 30)
            eventually(lambda: len(registry.pools("default")[0]) == 0)
            pooling.resume()

        in_threads([pauses_this_one_too, nests])
        assert_whole()


@pytest.mark.transaction_scope
def test_a_session_at_rest_gives_way() -> None:
    changed = threading.Event()
    going = threading.Event()

    def rests() -> None:
        from tests.behaviour.test_rest import CHANGE

        sql(CHANGE)
        changed.set()
        going.wait(10)

    def pauses() -> None:
        changed.wait(10)
        pooling.pause("default", 30)
        eventually(lambda: len(registry.pools("default")[0]) == 0)
        going.set()

    in_threads([rests, pauses])


def test_one_under_load_fails_nobody(observer: Observer) -> None:
    """Twenty visitors come again and again while the pool is paused and resumed five times."""
    going, errors, written = [True], [], []

    def visits(visitor: int) -> None:
        number = 0
        while going[0]:
            number += 1
            text = f"{visitor}/{number}"
            try:
                with transaction.atomic():
                    Note.objects.create(text=text)
                written.append(text)
                connection.close()
            except Exception as error:
                errors.append(error)

    def has_gone_on(before: int) -> bool:
        return len(written) > before

    def pause_and_resume() -> None:
        pooling.pause("default", 30)
        # Also those that were being opened.
        eventually(lambda: len(registry.pools("default")[0]) == observer.count() == 0)
        before = len(written)
        time.sleep(0.1)
        assert len(written) == before
        pooling.resume("default")
        eventually(partial(has_gone_on, before))

    def pauses() -> None:
        try:
            for _ in range(3):
                pause_and_resume()
        finally:
            pooling.resume()
            going[0] = False

    in_threads([pauses, *(partial(visits, visitor) for visitor in range(12))])
    assert errors == []
    assert sorted(committed()) == sorted(written)
    assert_whole()


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, "60", None, True])
def test_how_long_is_a_number_above_nothing(seconds: Any) -> None:
    with pytest.raises(ValueError, match="seconds must be a number above 0, not "):
        pooling.pause("default", seconds)
    assert paused() is None


@pytest.mark.parametrize("function", [pooling.pause, pooling.resume])
def test_an_unknown_alias_is_an_error(function: Any) -> None:
    with pytest.raises(ConnectionDoesNotExist, match="The connection 'nowhere' doesn't exist"):
        function("nowhere")


def test_resuming_what_is_not_paused_does_nothing() -> None:
    before = server_id()
    pooling.resume()
    assert server_id() == before


def test_the_log_tells_of_it(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeper, "TICK", 0.02)
    caplog.set_level("INFO", "django_db_pooling")
    one()
    pooling.pause("default", 30)
    eventually(lambda: "default: paused for 30 s: callers wait" in caplog.messages)
    pooling.resume("default")
    eventually(lambda: any("default: resumed after a pause of" in text for text in caplog.messages))
