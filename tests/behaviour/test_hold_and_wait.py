"""Several aliases in one request, taken in any order by many: nobody stands still."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError

from django_db_pooling import pooling
from django_db_pooling.backend import reuse
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.registry import registry
from tests.behaviour.brief import cooperative, request
from tests.behaviour.conftest import (
    another_alias,
    assert_whole,
    eventually,
    held,
    in_threads,
    one,
    sql,
    token,
)
from tests.behaviour.models import Note
from tests.behaviour.test_every_point import each_point
from tests.behaviour.test_rest import CHANGE

pytestmark = [pytest.mark.transaction_scope, cooperative]
# What a test would take if somebody stood still, and what it takes at most (seconds).
TIMEOUT, QUICK = 20.0, 5.0
CAP = 5


@contextmanager
def two_aliases(cap: int = CAP, timeout: float = TIMEOUT, **pool: Any) -> Iterator[tuple[str, str]]:
    with another_alias(POOL=pool) as primary, another_alias(POOL=pool) as replica:
        for alias in (primary, replica):
            pooling.set_pool_size(cap, max_outstanding=cap, timeout=timeout, alias=alias)
        yield primary, replica
        for alias in (primary, replica):
            assert_whole(alias)


def read(alias: str) -> None:
    token(alias)


def read_by_hand(alias: str) -> Any:
    """Its cursor is closed and still exists: a view has it in a variable."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
    return cursor


def read_objects(alias: str) -> None:
    list(Note.objects.using(alias).all())


@pytest.mark.parametrize(
    # sqlite3 doesn't tell whether a cursor is closed.
    "reads",
    [read, pytest.param(read_by_hand, marks=pytest.mark.never("sqlite3")), read_objects],
)
def test_requests_that_take_two_aliases_in_opposite_order_all_answer(reads: Callable[[str], Any]) -> None:
    with two_aliases() as aliases:
        all_hold_one = threading.Barrier(2 * CAP)

        def view(first: str, second: str) -> None:
            with request():
                seen = [reads(first)]
                all_hold_one.wait(TIMEOUT)
                seen.append(reads(second))
                seen.append(reads(first))

        began = time.monotonic()
        in_threads([partial(view, *aliases), partial(view, *reversed(aliases))] * 2 * CAP)
        assert time.monotonic() - began < QUICK
        assert [pooling.stats(alias).timeouts for alias in aliases] == [0, 0]


def test_of_transactions_that_wait_for_each_other_one_gives_up_at_once_and_the_others_go_on() -> None:
    with two_aliases() as aliases:
        all_hold_one = threading.Barrier(2 * CAP)

        def view(first: str, second: str) -> str:
            try:
                with request(), transaction.atomic(using=first):
                    read(first)
                    all_hold_one.wait(TIMEOUT)
                    with transaction.atomic(using=second):
                        read(second)
            except PoolTimeout as error:
                return str(error)
            return ""

        began = time.monotonic()
        refused = in_threads([partial(view, *aliases), partial(view, *reversed(aliases))] * CAP)
        assert time.monotonic() - began < QUICK
        refused = [text for text in refused if text]
        # More than one only where two have begun to wait in the same instant.
        assert 1 <= len(refused) < CAP
        assert all("wait for a connection, too" in text for text in refused)
        assert sum(pooling.stats(alias).timeouts for alias in aliases) == len(refused)


def test_who_waits_for_its_own_connection_is_told_at_once() -> None:
    """By a copy of its wrapper: without a limit there would be a second connection."""
    with two_aliases(cap=1) as (alias, _), request():
        copied = connections[alias].copy()
        with transaction.atomic(using=alias):
            read(alias)
            began = time.monotonic()
            with pytest.raises(PoolTimeout, match="wait for a connection, too"):
                copied.cursor()
            assert time.monotonic() - began < QUICK
        # At rest it is lent to the copy.
        with copied.cursor() as cursor:
            cursor.execute("SELECT 1")
        copied.close()


def test_who_waits_for_somebody_who_works_goes_on_waiting() -> None:
    """All who hold the first alias wait for the second, but who holds that works and will give it back."""
    with two_aliases(cap=1) as (first, second):

        def wait_for_the_second() -> None:
            with request(), transaction.atomic(using=first):
                read(first)
                read(second)

        def wait_for_the_first() -> None:
            eventually(lambda: pooling.stats(second).waiting)
            with request(), transaction.atomic(using="default"):
                read("default")
                read(first)

        def work() -> None:
            eventually(lambda: pooling.stats(first).waiting)
            let_go()

        with held(1, second) as let_go:
            in_threads([wait_for_the_second, wait_for_the_first, work])
        assert [pooling.stats(alias).timeouts for alias in (first, second)] == [0, 0]


@contextmanager
def waiting_for(alias: str, use: Callable[[], Any], seen: list[Any]) -> Iterator[None]:
    """A request uses another alias and waits for this one then, to the end of the block."""

    def view() -> None:
        with request():
            kept = use()
            read(alias)
            seen.append(use())
            del kept

    with held(1, alias) as let_go:
        thread = threading.Thread(target=view)
        thread.start()
        eventually(lambda: pooling.stats(alias).waiting)
        try:
            yield
        finally:
            let_go()
            thread.join(TIMEOUT)
            assert not thread.is_alive()


def test_what_nobody_has_needed_is_as_it_was() -> None:
    with two_aliases(cap=1) as (first, second):
        checkouts, seen = pooling.stats(first).checkouts, []

        def use() -> int:
            read(first)
            return id(connections[first].connection)

        with waiting_for(second, use, seen):
            assert pooling.stats(first).in_use == 1
            # Longer than a changed session rests while others could have it.
            time.sleep(0.2)
        assert seen != []
        assert pooling.stats(first).checkouts == checkouts + 1


def test_what_somebody_needs_is_theirs_and_the_request_goes_on_with_another_one() -> None:
    with two_aliases(cap=1) as (first, second):
        seen: list[Any] = []
        with waiting_for(second, partial(read, first), seen):
            began = time.monotonic()
            in_threads([partial(read, first)] * 3)
            assert time.monotonic() - began < QUICK
        assert seen == [None]


KEPT: dict[str, Callable[[str], Any]] = {
    "a transaction": lambda alias: (transaction.atomic(using=alias).__enter__(), one(alias)),
    "autocommit is off": lambda alias: (transaction.set_autocommit(False, using=alias), one(alias)),
    "a changed session": lambda alias: sql(CHANGE.format("mine"), using=alias),
    "a pin": lambda alias: (pooling.pin(alias), one(alias)),
    "the driver's object": lambda alias: (one(alias), connections[alias].connection),
    "an open cursor": lambda alias: (one(alias), _executed(alias)),
    "BEGIN in SQL": lambda alias: (sql("BEGIN", using=alias), one(alias)),
}


def _executed(alias: str) -> Any:
    cursor = connections[alias].cursor()
    cursor.execute("SELECT 1")
    return cursor


@pytest.mark.parametrize("what", KEPT)
def test_what_the_request_needs_it_keeps(what: str) -> None:
    with two_aliases(cap=1) as (first, second):
        pooling.set_pool_size(1, timeout=0.3, alias=first)
        uses = iter([partial(KEPT[what], first), int])
        with waiting_for(second, lambda: next(uses)(), []), pytest.raises(PoolTimeout):
            in_threads([partial(one, first)])
        with transaction.atomic(using=first):
            token(first)


def test_with_reset_always_nobody_knows_what_a_session_has() -> None:
    with two_aliases(cap=1, RESET="always") as (first, second):
        pooling.set_pool_size(1, timeout=0.3, alias=first)
        with waiting_for(second, partial(read, first), []), pytest.raises(PoolTimeout):
            in_threads([partial(one, first)])


@pytest.mark.skipif(not reuse.IS_POSSIBLE, reason="where references can't be counted nothing is lent")
@pytest.mark.parametrize("taken", [False, True])
def test_what_the_last_statement_has_left_is_asked_of_its_own_session_only(taken: bool) -> None:
    ask = {"mysql": "SELECT LAST_INSERT_ID()", "postgresql": "SELECT lastval()"}.get(
        connections["default"].vendor, "SELECT last_insert_rowid()"
    )
    with two_aliases(cap=1) as (first, second):
        seen: list[Any] = []

        def use() -> Any:
            if not notes:
                notes.append(Note.objects.using(first).create(text="a").pk)
                return None
            try:
                return sql(ask, using=first)[0][0]
            except TransactionManagementError as error:
                return type(error)

        notes: list[int] = []
        with waiting_for(second, use, seen):
            if taken:
                in_threads([partial(Note.objects.using(first).create, text="another")])
        assert seen == [TransactionManagementError if taken else notes[0]]


def test_a_wait_that_ends_without_a_connection_loses_nothing() -> None:
    with two_aliases(cap=1, timeout=0.5) as (first, second):
        with held(1, second), request():
            read(first)
            before = connections[first].connection
            with pytest.raises(PoolTimeout):
                one(second)
            assert connections[first].connection is before
            read(first)
        assert pooling.stats(first).opened == 1


def test_what_was_recycled_while_its_user_waits_is_replaced() -> None:
    with two_aliases(cap=1) as (first, second):
        seen: list[Any] = []
        with waiting_for(second, partial(read, first), seen):
            pooling.recycle(first)
            assert pooling.stats(first).in_use == 0
        assert seen == [None]
        assert pooling.stats(first).opened == 2


def test_the_count_of_references_is_the_same_for_each_connection() -> None:
    """Else some would never be lent."""
    with two_aliases() as (first, second):
        together = threading.Barrier(CAP)

        def use() -> None:
            read(first)
            together.wait(TIMEOUT)

        in_threads([pooling.scope("request")(use)] * CAP)
        assert pooling.stats(first).opened == CAP
        seen: list[Any] = []

        def hold() -> None:
            read(first)

        with held(CAP - 1, first):
            pooling.set_pool_size(1, max_outstanding=1, alias=second)
            with waiting_for(second, hold, seen):
                in_threads([partial(read, first)])


@pytest.mark.only("threads")
def test_struck_at_each_point_while_it_lends_it_loses_nothing() -> None:
    """As by a signal's handler. In the end the pools are whole: see ``two_aliases``."""
    with two_aliases(cap=1) as (first, second), held(1, second), request():
        pooling.set_pool_size(1, max_outstanding=1, timeout=0, alias=second)
        token(first)
        pool, wrapper = registry.by_alias[first], connections[first]

        def wait() -> None:
            with suppress(PoolTimeout):
                one(second)

        for place in each_point(wait):
            resting = [rest.slot for rest in pool.resting.all()]
            others = [slot.connection for slot in [*pool.slots.idle(), *resting] if slot is not None]
            assert wrapper.connection is None or wrapper.connection not in others, place
            token(first)
            assert pooling.stats(first).in_use == 1, place
            assert len(pool.resting) == 0, place
