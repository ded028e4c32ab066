"""Whatever somebody has done to a session, the next user of the connection has one that is as new."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from django.db import Error

from django_db_pooling import pooling
from tests.behaviour import changes, photograph, routes
from tests.behaviour.conftest import (
    MYSQL,
    POSTGRESQL,
    another_alias,
    plain,
    request_finished,
    request_started,
    sql,
)
from tests.behaviour.observer import DRIVER, Observer
from tests.behaviour.photograph import Photograph, differences
from tests.behaviour.routes import Execute, Route
from tests.behaviour.variables import Variable, variables

HIDEABLE = [one for one in changes.ALL if one not in changes.ONLY_ALONE]

pytestmark = pytest.mark.transaction_scope

# Whose sessions are made as new; those of the others are closed.
RESETS = DRIVER in ("pymysql", "psycopg")


class Site:
    """One connection, and one visitor after the other."""

    def __init__(self, alias: str, observer: Observer) -> None:
        self.alias = alias
        self._observer = observer
        self._changing: Iterable[str] = ()
        one, other = self._of_a_new_session(), self._of_a_new_session()
        # What differs from one new session to the next.
        self._changing = differences(one, other).keys()
        self._new = self._lasting(one)
        # Statements: what the server refuses, what closes the connection, and what the next visitor finds.
        self.refused: list[str] = []
        self.closed: set[str] = set()
        self.found: dict[str, Any] = {}

    def visit(self, statement: str, work: Callable[[], Any]) -> None:
        """Somebody does this, and somebody else comes."""
        closed = pooling.stats(self.alias).closed
        request_started()
        try:
            work()
        except Error:
            self.refused.append(statement)
        finally:
            request_finished()
        if pooling.stats(self.alias).closed > closed:
            self.closed.add(statement)
        found = self._of_a_session()
        if found != self._new:
            self.found[statement] = differences(self._new, found)
            pooling.close_all(self.alias)

    def visits(self, statements: Iterable[str], route: Route, execute: Execute, pins: bool = False) -> None:
        for statement in statements:
            try:
                work = route(statement, self.alias, execute)
            except Error:
                self.refused.append(statement)
            else:
                self.visit(statement, self._pinned(work) if pins else work)

    def _pinned(self, work: Callable[[], Any]) -> Callable[[], Any]:
        def pinned() -> None:
            pooling.pin(self.alias)
            work()

        return pinned

    def _of_a_new_session(self) -> Photograph:
        pooling.close_all(self.alias)
        return self._of_a_session()

    def _of_a_session(self) -> Photograph:
        request_started()
        try:
            return self._lasting(photograph.of_alias(self.alias, self._observer))
        finally:
            request_finished()

    def _lasting(self, taken: Photograph) -> Photograph:
        return {name: value for name, value in taken.items() if name not in self._changing}


@pytest.fixture
def execute(fresh_pool: None) -> Iterator[Execute]:
    """Of an administrator of the database."""
    with plain() as wrapper:

        def execute(statement: str) -> list[Any]:
            with wrapper.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall()) if cursor.description else []

        changes.set_up(execute)
        yield execute
        changes.tear_down(execute)


@pytest.fixture
def site(request: pytest.FixtureRequest, execute: Execute, observer: Observer) -> Iterator[Site]:
    pool = {"SIZE": 1, "MAX_OUTSTANDING": 1} | getattr(request, "param", {})
    with another_alias(POOL=pool) as alias:
        yield Site(alias, observer)


REQUEST, TRANSACTION, ALWAYS = {"SCOPE": "request"}, {"SCOPE": "transaction"}, {"RESET": "always"}


def test_each_statement_shows_in_a_photograph(execute: Execute, observer: Observer) -> None:
    """Otherwise the others here prove nothing."""
    with plain() as one, plain() as other:
        new = photograph.of(one, observer)
        changing = differences(new, photograph.of(other, observer)).keys()
    unseen = []
    for statement in changes.ALL:
        with plain() as wrapper:
            with wrapper.cursor() as cursor:
                cursor.execute(statement)
            found = photograph.of(wrapper, observer)
        if differences(new, found).keys() <= changing:
            unseen.append(statement)
    assert unseen == []


PLAIN_WORDS = [
    (routes.bare, REQUEST),
    (routes.bare, TRANSACTION),
    (routes.in_a_block, TRANSACTION),
    (routes.in_a_block_that_fails, REQUEST),
] + ([] if DRIVER == "sqlite3" else [(routes.many, TRANSACTION)])


@pytest.mark.parametrize(
    ("route", "site"),
    PLAIN_WORDS,
    indirect=["site"],
    ids=lambda value: value["SCOPE"] if isinstance(value, dict) else None,
)
def test_a_statement_in_plain_words(route: Route, site: Site, execute: Execute) -> None:
    site.visits(changes.ALL, route, execute)
    assert site.found == {}
    assert len(site.refused) <= 3
    # What can be made as new is not thrown away.
    if RESETS:
        assert site.closed - set(site.refused) == {*changes.ROLES, *changes.FOR_GOOD} - set(site.refused)


def test_every_variable_of_a_session(site: Site) -> None:
    def ask(statement: str) -> list[Any]:
        return sql(statement, using=site.alias)

    def change(variable: Variable) -> None:
        before = ask(variable.reading)
        for statement in variable.settings():
            with suppress(Error):
                ask(statement)
            if ask(variable.reading) != before:
                changed.append(statement)
                break

    changed: list[str] = []
    for variable in variables(ask):
        # Each on its own: one that is seen would hide the others.
        site.visit(variable.name, partial(change, variable))
    assert site.refused == []
    assert site.found == {}
    assert len(changed) >= (150 if MYSQL else 100 if POSTGRESQL else 15)
    if RESETS:
        assert not site.closed


@pytest.mark.never("sqlite3")
@pytest.mark.parametrize("route", routes.BY_NAME)
def test_a_routine_that_is_called_by_name(route: Route, site: Site, execute: Execute) -> None:
    site.visits(changes.ALL, route, execute)
    assert_as_documented(site)


@pytest.mark.only("pymysql", "mysqlclient")
def test_a_routine_that_is_called_by_the_drivers_method(site: Site, execute: Execute) -> None:
    site.visits(changes.ROLES, routes.by_callproc, execute)
    assert site.found == {}
    assert site.closed == set(changes.ROLES)


@pytest.mark.never("sqlite3")
@pytest.mark.parametrize("site", [ALWAYS], indirect=True, ids=[""])
@pytest.mark.parametrize("route", routes.HIDDEN)
def test_what_no_text_shows_is_undone_where_each_session_is_reset(
    route: Route, site: Site, execute: Execute
) -> None:
    site.visits(HIDEABLE, route, execute)
    assert_as_documented(site)


@pytest.mark.never("sqlite3")
@pytest.mark.parametrize("route", routes.HIDDEN[:1])
def test_what_no_text_shows_is_undone_where_the_visitor_pins(
    route: Route, site: Site, execute: Execute
) -> None:
    site.visits(HIDEABLE, route, execute, pins=True)
    assert_as_documented(site)


def assert_as_documented(site: Site) -> None:
    assert site.found.keys() == (set(changes.LEFT) - set(site.refused) if RESETS else set())
    assert len(site.refused) < len(changes.ALL) / 3
