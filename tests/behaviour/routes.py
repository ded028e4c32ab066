"""How a statement comes to be executed: in plain words, or by a routine or a trigger of the database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connections, transaction

from tests.behaviour.conftest import MYSQL, POSTGRESQL, sql
from tests.behaviour.observer import SERVER
from tests.behaviour.photograph import WATCHED

ROUTINE = "reset_routine"

# Through a connection of nobody's.
Execute = Callable[[str], Any]


def _quoted(statement: str) -> str:
    return f"EXECUTE $q${statement}$q$;"


def bare(statement: str, alias: str, execute: Execute) -> Callable[[], Any]:
    return lambda: sql(statement, using=alias)


def in_a_block(statement: str, alias: str, execute: Execute) -> Callable[[], Any]:
    @transaction.atomic(using=alias)
    def work() -> None:
        sql(statement, using=alias)

    return work


def in_a_block_that_fails(statement: str, alias: str, execute: Execute) -> Callable[[], Any]:
    def work() -> None:
        with transaction.atomic(using=alias):
            sql(statement, using=alias)
            transaction.set_rollback(True, using=alias)

    return work


def many(statement: str, alias: str, execute: Execute) -> Callable[[], Any]:
    def work() -> None:
        with connections[alias].cursor() as cursor:
            cursor.executemany(statement, [()])

    return work


def _make_procedure(statement: str, execute: Execute) -> None:
    if MYSQL:
        execute(f"DROP PROCEDURE IF EXISTS {ROUTINE}")
        # With the visitor's rights, so that MySQL lets it take a role.
        execute(f"CREATE PROCEDURE {ROUTINE}() SQL SECURITY INVOKER BEGIN {statement}; END")
    else:
        execute(
            f"CREATE OR REPLACE PROCEDURE {ROUTINE}() LANGUAGE plpgsql"
            f" AS $p$ BEGIN {_quoted(statement)} END $p$"
        )


def called(statement: str, alias: str, execute: Execute) -> Callable[[], Any]:
    _make_procedure(statement, execute)
    return lambda: sql(f"CALL {ROUTINE}()", using=alias)


def by_callproc(statement: str, alias: str, execute: Execute) -> Callable[[], Any]:
    _make_procedure(statement, execute)

    def work() -> None:
        with connections[alias].cursor() as cursor:
            cursor.callproc(ROUTINE)

    return work


def anonymous(statement: str, alias: str, execute: Execute) -> Callable[[], Any]:
    if MYSQL:
        return lambda: sql(f"BEGIN NOT ATOMIC {statement}; END", using=alias)
    return lambda: sql(f"DO $d$ BEGIN {_quoted(statement)} END $d$", using=alias)


def prepared(statement: str, alias: str, execute: Execute) -> Callable[[], Any]:
    return lambda: sql("EXECUTE IMMEDIATE %s", statement, using=alias)


def _make_function(statement: str, execute: Execute) -> None:
    if MYSQL:
        execute(f"DROP FUNCTION IF EXISTS {ROUTINE}")
        execute(f"CREATE FUNCTION {ROUTINE}() RETURNS INT BEGIN {statement}; RETURN 1; END")
    else:
        execute(
            f"CREATE OR REPLACE FUNCTION {ROUTINE}() RETURNS INT LANGUAGE plpgsql"
            f" AS $f$ BEGIN {_quoted(statement)} RETURN 1; END $f$"
        )


def selected(statement: str, alias: str, execute: Execute) -> Callable[[], Any]:
    _make_function(statement, execute)
    return lambda: sql(f"SELECT {ROUTINE}()", using=alias)


def by_a_function(statement: str, alias: str, execute: Execute) -> Callable[[], Any]:
    """In a statement that has no result of its own."""
    _make_function(statement, execute)
    return lambda: sql(f"DO {ROUTINE}()", using=alias)


def by_a_trigger(statement: str, alias: str, execute: Execute) -> Callable[[], Any]:
    if MYSQL:
        execute(f"DROP TRIGGER IF EXISTS {ROUTINE}")
        execute(f"CREATE TRIGGER {ROUTINE} BEFORE INSERT ON {WATCHED} FOR EACH ROW BEGIN {statement}; END")
    else:
        execute(
            f"CREATE OR REPLACE FUNCTION {ROUTINE}() RETURNS TRIGGER LANGUAGE plpgsql"
            f" AS $t$ BEGIN {_quoted(statement)} RETURN NEW; END $t$"
        )
        execute(
            f"CREATE OR REPLACE TRIGGER {ROUTINE} BEFORE INSERT ON {WATCHED}"
            f" FOR EACH ROW EXECUTE FUNCTION {ROUTINE}()"
        )
    return lambda: sql(f"INSERT INTO {WATCHED} VALUES (1)", using=alias)


Route = Callable[[str, str, Execute], Callable[[], Any]]

BY_NAME: list[Route] = {
    "mariadb": [called, anonymous, prepared],
    "mysql": [called],
    "postgresql": [called, anonymous],
}.get(SERVER, [])
HIDDEN: list[Route] = [by_a_trigger, selected] if MYSQL or POSTGRESQL else []
if MYSQL:
    HIDDEN.append(by_a_function)
