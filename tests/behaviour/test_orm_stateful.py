"""Anything in any order with Django's ORM and its transactions: pooled, it is as without a pool.

Each step is done on a pooled alias and on Django's own wrapper, the model; what it returns or raises,
what hooks have seen, what is committed and where the wrappers are in their transactions is compared.
What is drawn depends on nothing but what was drawn before: a rule that means nothing where it comes does
nothing, and the garbage collector runs only when it is told to.

It is the same run each time. With ``--hypothesis-seed=1`` it is another, and with
``POOLING_STATEFUL_EXAMPLES=1000`` in the environment a longer one.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from django_db_pooling import pooling
from tests.behaviour.conftest import DRIVER, eventually, in_thread, request_finished, request_started
from tests.behaviour.observer import Observer
from tests.behaviour.twins import TABLE, Entry, Outcome, Stage, World, failed, outcome, stage

EXAMPLES = int(os.environ.get("POOLING_STATEFUL_EXAMPLES", "25"))
STEPS = 50

MOST_BLOCKS = 4
MOST_OPEN = 2

NUMBER = st.integers(0, 4)
TEXT = st.sampled_from("abc")
INDEX = st.integers(0, MOST_OPEN - 1)

SELECT = f"SELECT number, text FROM {TABLE} ORDER BY number"
INSERT = f"INSERT INTO {TABLE} (number, text) VALUES (%s, 'raw')"
STATEMENTS: list[tuple[Any, ...]] = [
    (SELECT,),
    (INSERT, 0),
    (INSERT, 3),
    (f"DELETE FROM {TABLE} WHERE number < %s", 2),
    ("SELECT nonsense FROM nowhere",),
]


def run(cursor: Any, statement: tuple[Any, ...]) -> None:
    cursor.execute(statement[0], statement[1:] or None)


READS: dict[str, Callable[[World, int], Any]] = {
    "get": lambda world, number: world.entries.get(number=number).text,
    "count": lambda world, number: world.entries.filter(number__gte=number).count(),
    "exists": lambda world, number: world.entries.filter(number=number).exists(),
    "rows": lambda world, number: world.rows(),
    "for update": lambda world, number: len(world.entries.select_for_update().filter(number=number)),
}
WRITES: dict[str, Callable[[World, int, str], Any]] = {
    "create": lambda world, number, text: world.entries.create(number=number, text=text).text,
    "update": lambda world, number, text: world.entries.filter(number__gte=number).update(text=text),
    "delete": lambda world, number, text: world.entries.filter(number=number).delete()[0],
    "get_or_create": lambda world, number, text: world.entries.get_or_create(number=number)[1],
    "update_or_create": lambda world, number, text: world.entries.update_or_create(
        number=number, defaults={"text": text}
    )[1],
    "bulk": lambda world, number, text: len(
        world.entries.bulk_create(Entry(number=n, text=text) for n in (number, 4))
    ),
}


# A block, cursor or iterator: one in each world.
Pair = dict[World, Any]


class Twins(RuleBasedStateMachine):
    scope: ClassVar[str]
    stage: ClassVar[Stage]

    def __init__(self) -> None:
        super().__init__()
        # What earlier examples have left would make collections slow.
        gc.collect()
        gc.freeze()
        self.pooled, self.model = self.stage.pooled, self.stage.model
        # Innermost last.
        self.blocks: list[Pair] = []
        self.iterators: list[Pair] = []
        self.cursors: list[Pair] = []
        # In a transaction of set_autocommit(False).
        self.by_hand = False
        # The connection was lost in a block that hasn't ended yet.
        self.lost = False
        self.pinned = False
        self.hooks = 0
        self.held_in_hooks: list[bool] = []
        # False from the beginning of a step that fails.
        self.sound = True
        request_started()
        self.context = pooling.scope(self.scope)
        self.context.__enter__()

    # -- a step -----------------------------------------------------------------------------------

    @contextmanager
    def step(self) -> Iterator[None]:
        self.sound = False
        self.held_in_hooks.clear()
        yield
        self.compare()
        self.sound = True

    def both(self, call: Callable[[World], Any]) -> Outcome:
        with self.step():
            return self.do_both(call)

    def do_both(self, call: Callable[[World], Any]) -> Outcome:
        expected, found = outcome(lambda: call(self.model)), outcome(lambda: call(self.pooled))
        # On a connection that was lost, one error of the database is as good as another.
        assert found == expected or (self.lost and failed(found) and failed(expected))
        return found

    def compare(self) -> None:
        pooled, model = self.pooled.wrapper, self.model.wrapper
        assert self.pooled.log == self.model.log
        assert self.pooled.committed() == self.model.committed()
        assert pooled.in_atomic_block == model.in_atomic_block == bool(self.blocks)
        assert pooled.connection is not None or not self.pinned
        if self.blocks:
            assert pooled.needs_rollback == model.needs_rollback
            assert pooled.closed_in_transaction == model.closed_in_transaction == self.lost
            assert [sid is None for sid in pooled.savepoint_ids] == [
                sid is None for sid in model.savepoint_ids
            ]
            assert len(pooled.run_on_commit) == len(model.run_on_commit)
        elif self.scope == "transaction" and not self.needs_its_connection:
            assert pooled.connection is None
            assert not any(self.held_in_hooks), "on_commit hooks run after the connection has gone back"

    @property
    def needs_its_connection(self) -> bool:
        return bool(self.blocks or self.by_hand or self.pinned or self.iterators or self.cursors)

    def gone(self) -> None:
        """The connection went back."""
        self.close_what_is_open()
        self.by_hand = self.pinned = False

    def close_what_is_open(self) -> None:
        """Whether a driver has fetched the rest before its connection went differs."""
        for pair in self.iterators + self.cursors:
            for thing in pair.values():
                outcome(thing.close)
        self.iterators.clear()
        self.cursors.clear()

    # -- queries ------------------------------------------------------------------------------------

    @initialize(number=NUMBER)
    def something_is_there(self, number: int) -> None:
        self.both(lambda world: world.entries.bulk_create(Entry(number=n) for n in range(number)) and None)

    @rule(kind=st.sampled_from(sorted(READS)), number=NUMBER)
    def reads(self, kind: str, number: int) -> None:
        found = self.both(lambda world: READS[kind](world, number))
        if self.scope == "request" and found[0] == "returns":
            assert self.pooled.wrapper.connection is not None

    @rule(kind=st.sampled_from(sorted(WRITES)), number=NUMBER, text=TEXT)
    def writes(self, kind: str, number: int, text: str) -> None:
        self.both(lambda world: WRITES[kind](world, number, text))

    @rule(statement=st.sampled_from(STATEMENTS))
    def executes_sql(self, statement: tuple[Any, ...]) -> None:
        def call(world: World) -> list[Any]:
            with world.wrapper.cursor() as cursor:
                run(cursor, statement)
                return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

        self.both(call)

    @rule(number=NUMBER)
    def begins_to_iterate(self, number: int) -> None:
        def call(world: World) -> Any:
            found = world.entries.filter(number__gte=number).order_by("number")
            pair[world] = iter(found.values_list("number", flat=True).iterator(chunk_size=1))
            return next(pair[world], None)

        if len(self.iterators) < MOST_OPEN:
            pair: Pair = {}
            self.iterators.append(pair)
            if self.both(call)[0] == "raises":
                self.iterators.pop()

    @rule(index=INDEX, how=st.sampled_from(["next", "next", "rest", "close", "abandon"]))
    def goes_on_with_an_iterator(self, index: int, how: str) -> None:
        self.use(self.iterators, index, how, {"next": next, "rest": list})

    @rule(statement=st.sampled_from(STATEMENTS))
    def opens_a_cursor(self, statement: tuple[Any, ...]) -> None:
        def call(world: World) -> None:
            pair[world] = world.wrapper.cursor()
            run(pair[world], statement)

        # Django's cursors of a connection that was lost may fail when they are closed.
        if len(self.cursors) < MOST_OPEN and not self.lost:
            pair: Pair = {}
            self.cursors.append(pair)
            self.both(call)

    @rule(
        index=INDEX,
        how=st.sampled_from(["execute", "execute", "fetch", "close", "abandon"]),
        statement=st.sampled_from(STATEMENTS),
    )
    def goes_on_with_a_cursor(self, index: int, how: str, statement: tuple[Any, ...]) -> None:
        def execute(cursor: Any) -> Any:
            run(cursor, statement)
            return tuple(cursor.fetchone() or ()) if cursor.description else None

        def fetch(cursor: Any) -> Any:
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else None

        self.use(self.cursors, index, how, {"execute": execute, "fetch": fetch})

    def use(self, pairs: list[Pair], index: int, how: str, calls: dict[str, Callable[[Any], Any]]) -> None:
        if index >= len(pairs):
            return
        if how == "abandon":
            with self.step():
                del pairs[index]
        elif how == "close":
            pair = pairs.pop(index)
            self.both(lambda world: pair[world].close())
        else:
            self.both(lambda world: calls[how](pairs[index][world]))

    # -- transactions -------------------------------------------------------------------------------

    @rule(savepoint=st.booleans(), durable=st.sampled_from([False, False, False, True]))
    def enters_a_block(self, savepoint: bool, durable: bool) -> None:
        def call(world: World) -> None:
            block = transaction.atomic(using=world.alias, savepoint=savepoint, durable=durable)
            block.__enter__()
            self.blocks[-1][world] = block

        if len(self.blocks) == MOST_BLOCKS:
            return
        with self.step():
            if self.by_hand and not self.blocks and self.do_both(World.rows)[0] == "raises":
                # Django would stay in a block that it couldn't enter.
                return
            self.blocks.append({})
            if self.do_both(call)[0] == "raises":
                self.blocks.pop()

    @rule()
    def enters_a_usual_block(self) -> None:
        self.enters_a_block(True, False)

    @rule(fails=st.sampled_from([False, False, True]))
    def leaves_a_block(self, fails: bool) -> None:
        if self.blocks:
            with self.step():
                self.leave(fails)
                self.lost = self.lost and bool(self.blocks)

    def leave(self, fails: bool) -> bool:
        """Whether an exception goes on to what is around it."""

        def call(world: World) -> Any:
            return block[world].__exit__(type(error) if error else None, error, None)

        error = ZeroDivisionError() if fails else None
        block = self.blocks.pop()
        found = self.do_both(call)
        return fails or found[0] == "raises"

    @rule(
        number=NUMBER,
        hook=st.sampled_from(["note", "query", "fail"]),
        end=st.sampled_from(["commit", "commit", "error", "cut off"]),
    )
    def works_in_a_whole_block(self, number: int, hook: str, end: str) -> None:
        self.enters_a_block(True, False)
        self.writes("create", number, "block")
        self.registers_a_hook(hook, False)
        if end == "cut off":
            self.is_cut_off_by_the_server(True)
        self.leaves_a_block(end == "error")

    @rule(value=st.sampled_from([True, True, False]))
    def sets_the_rollback_flag(self, value: bool) -> None:
        # False is for "after rolling back to a known-good state", says Django.
        if value or not self.lost:
            self.both(lambda world: transaction.set_rollback(value, using=world.alias))

    @rule(how=st.sampled_from(["make", "make", "commit", "rollback"]))
    def uses_a_savepoint(self, how: str) -> None:
        def call(world: World) -> Any:
            if how == "make":
                sid = connections[world.alias].savepoint()
                if sid is not None:
                    world.savepoints.append(sid)
                return sid is None
            end = transaction.savepoint_commit if how == "commit" else transaction.savepoint_rollback
            return world.savepoints and end(world.savepoints[-1], using=world.alias)

        self.both(call)

    @rule(
        kind=st.sampled_from(["note", "query", "write", "nest", "block", "fail"]),
        robust=st.booleans(),
    )
    def registers_a_hook(self, kind: str, robust: bool) -> None:
        if self.lost:
            # Django's next connect() may run it.
            return
        self.hooks += 1
        name = f"{self.hooks} {kind}"
        self.both(lambda world: transaction.on_commit(self.hook(world, name, kind), world.alias, robust))

    def hook(self, world: World, name: str, kind: str) -> Callable[[], None]:
        def run() -> None:
            if world is self.pooled:
                self.held_in_hooks.append(world.wrapper.connection is not None)
            world.log.append((name, world.wrapper.in_atomic_block))
            if kind == "query":
                world.log.append(world.rows())
            elif kind == "write":
                world.log.append(outcome(lambda: world.entries.create(number=4, text="hook").text))
            elif kind == "nest":
                transaction.on_commit(lambda: world.log.append(f"{name}, nested"), world.alias)
            elif kind == "block":
                with transaction.atomic(using=world.alias):
                    transaction.on_commit(lambda: world.log.append(f"{name}, in a block"), world.alias)
                    world.entries.filter(number=4).delete()
            elif kind == "fail":
                raise ZeroDivisionError

        return run

    @rule(how=st.sampled_from(["begin", "commit", "rollback", "end"]))
    def begins_or_ends_a_transaction_by_hand(self, how: str) -> None:
        if how in ("commit", "rollback"):
            self.both(lambda world: getattr(transaction, how)(using=world.alias))
            return
        with self.step():
            self.do_both(lambda world: transaction.set_autocommit(how == "end", using=world.alias))
            if not self.blocks:
                self.by_hand = not self.model.wrapper.autocommit

    # -- connections ------------------------------------------------------------------------------------

    @rule(how=st.sampled_from(["close", "release", "request", "scope"]))
    def gives_its_connection_back(self, how: str) -> None:
        if how == "close":
            self.close()
        elif how == "release":
            self.release()
        elif not self.blocks:
            # A block that is open at the end of a request or scope is rolled back, and goes on in Django.
            with self.step():
                self.end_its_request() if how == "request" else self.end_its_scope()

    def close(self) -> None:
        # Django never ends a block that was lost inside of a transaction by hand.
        if not (self.blocks and self.by_hand):
            with self.step():
                self.do_both(lambda world: world.wrapper.close())
                self.lost = bool(self.blocks)
                self.gone()

    def release(self) -> None:
        """To Django it is close(). A block that hasn't begun holds nothing."""
        with self.step():
            refused = self.by_hand or (self.blocks and self.pooled.wrapper.connection is not None)
            found = outcome(lambda: pooling.release(self.pooled.alias))
            assert found == (("raises", TransactionManagementError) if refused else ("returns", None))
            if not (self.blocks or self.by_hand):
                self.model.wrapper.close()
                self.gone()

    def end_its_request(self) -> None:
        request_finished()
        eventually(self.stage.nothing_is_in_use)
        request_started()
        self.gone()

    def end_its_scope(self) -> None:
        self.context.__exit__(None, None, None)
        eventually(self.stage.nothing_is_in_use)
        self.model.wrapper.close()
        self.context.__enter__()
        self.gone()

    @rule()
    def pins_its_connection(self) -> None:
        if not self.lost:
            with self.step():
                pooling.pin(self.pooled.alias)
                self.pinned = True

    @rule()
    def somebody_else_reads(self) -> None:
        """With another connection, or with the one that has just come back."""

        def call() -> tuple[bool, list[Any]]:
            return self.pooled.wrapper.get_autocommit(), self.pooled.rows()

        with self.step():
            assert in_thread(call) == (True, self.model.committed())

    @rule(notices=st.booleans())
    def is_cut_off_by_the_server(self, notices: bool) -> None:
        if DRIVER == "sqlite3" or self.lost or (self.blocks and self.by_hand):
            # As with close().
            return
        with self.step():
            if self.blocks or self.by_hand:
                self.do_both(World.rows)
            self.close_what_is_open()
            held = self.pooled.wrapper.connection is not None
            self.stage.kill()
            if self.blocks:
                self.lose_its_blocks(notices)
            else:
                self.lose_its_connection(held)

    def lose_its_blocks(self, notices: bool) -> None:
        """They fail to their ends, whether a statement notices it or only the end itself."""
        self.pinned, self.lost = False, True
        if notices and not self.model.wrapper.needs_rollback:
            assert failed(self.do_both(World.rows))
            # A loss is to be like Django's own close() in a block.
            self.model.wrapper.close()
            return
        fails = False
        while self.blocks:
            fails = self.leave(fails)
        # Where a block has executed nothing, its end is no statement either.
        self.do_both(lambda world: world.wrapper.close())
        self.lost = False

    def lose_its_connection(self, held: bool) -> None:
        """What is held fails once, what is idle is not handed out. Django's own goes on failing."""
        assert failed(outcome(self.pooled.rows)) == held
        if self.by_hand:
            assert failed(outcome(self.pooled.rows)), "it would be the rest of a transaction"
        if self.by_hand or DRIVER == "mysqlclient":
            # Which can't tell whether it was a transaction.
            self.pooled.wrapper.close()
        self.model.wrapper.close()
        self.by_hand = self.pinned = False
        self.do_both(World.rows)

    # -- the end -----------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if self.sound:
                while self.blocks:
                    self.leaves_a_block(False)
                self.gives_its_connection_back("request")
                self.both(World.rows)
        finally:
            self.gone()
            self.blocks.clear()
            request_finished()
            self.context.__exit__(None, None, None)
            for world in (self.pooled, self.model):
                world.forget()
        if self.sound:
            eventually(self.stage.nothing_is_in_use)


@pytest.fixture
def reproducible() -> Iterator[None]:
    """Collections when they are asked for, and nobody who keeps errors and with them cursors."""
    gc.collect()
    gc.freeze()
    gc.disable()
    logging.disable(logging.CRITICAL)
    # Iterators that are abandoned in a transaction that has failed complain, as in Django.
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    yield
    sys.unraisablehook = hook
    logging.disable(logging.NOTSET)
    gc.enable()
    gc.unfreeze()


@pytest.mark.transaction_scope
@pytest.mark.timeout(300 + EXAMPLES)
@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_with_a_pool_django_is_as_without(
    scope: str, observer: Observer, reproducible: None, request: pytest.FixtureRequest
) -> None:
    with stage(observer) as made:
        machine = type(f"In{scope.title()}Scope", (Twins,), {"scope": scope, "stage": made})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                derandomize=request.config.getoption("--hypothesis-seed", None) is None,
                deadline=None,
                database=None,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
