"""A signal's handler raises, at each point of a checkout or a checkin in turn."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import close_old_connections, connection, transaction

from django_db_pooling import pooling
from django_db_pooling.registry import registry
from tests.behaviour.conftest import MYSQL, POSTGRESQL, in_thread, one, request_finished, request_started, sql
from tests.every_point import Points
from tests.strikes import Struck

# What gevent's hub is at when a signal comes is nobody's request. In finalizers what is raised goes nowhere.
pytestmark = [
    pytest.mark.only("threads"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
# Python 3.12 has comprehensions in line, which are calls before.
LEAST_POINTS = 5

ENDS: dict[str, Callable[[], Any]] = {
    "close": lambda: connection.close(),
    "close_old_connections": close_old_connections,
    "release": pooling.release,
}

if MYSQL:
    CHANGE, LOOK, NEW = "SET @mine = 'theirs'", "SELECT @mine", (None,)
elif POSTGRESQL:
    CHANGE, LOOK, NEW = "SET my.own = 'theirs'", "SELECT current_setting('my.own', true)", (None, "")
else:
    CHANGE, LOOK, NEW = "PRAGMA foreign_keys = OFF", "PRAGMA foreign_keys", (1,)


def each_point(do: Callable[[], Any]) -> Iterator[str]:
    """Where it was struck, each time."""
    points = Points()
    for number in itertools.count(1):
        place = ""
        try:
            with points.strike(number):
                do()
        except Struck as error:
            place = str(error)
        if points.is_over:
            assert number > LEAST_POINTS
            return
        yield place


def assert_own(place: str) -> None:
    """Its wrapper refers to no connection but its own, and nothing of the checkout is left."""
    pool = registry.by_alias["default"]
    wrapper: Any = connection
    assert wrapper.connection not in [slot.connection for slot in pool.slots.idle()], place
    assert wrapper._deadline is None, place
    assert wrapper._depth == 0, place
    assert wrapper.settings_dict is wrapper._identity.settings_dict, place


def test_nobody_sees_the_session_of_another_one() -> None:
    pooling.set_pool_size(1, max_outstanding=1)
    one()
    connection.close()
    for place in each_point(one):
        assert_own(place)
        assert sql(LOOK)[0][0] in NEW, place
        connection.close()
        # Its thread ends without I/O, so the next holder has to reset the session.
        in_thread(lambda: sql(CHANGE))


def test_struck_while_opening() -> None:
    for place in each_point(one):
        assert_own(place)
        connection.close()
        pooling.close_all()


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_who_has_given_back_has_nothing_any_more(end: Callable[[], None]) -> None:
    one()
    for place in each_point(end):
        assert_own(place)
        connection.close()
        one()


def test_after_the_end_of_a_request_its_wrapper_has_nothing_any_more() -> None:
    one()
    for place in each_point(request_finished):
        assert_own(place)
        request_finished()
        request_started()
        one()


@pytest.mark.transaction_scope
def test_a_method_that_was_struck_is_not_counted_as_running() -> None:
    """It would keep the connection after each statement."""

    def work() -> None:
        with transaction.atomic():
            one()
        connection.get_autocommit()

    work()
    for place in each_point(work):
        assert_own(place)
        connection.in_atomic_block = False
        connection.close()
