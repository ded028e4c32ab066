"""What the command and the page say first."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from django_db_pooling import conf
from django_db_pooling.dashboard import presentation
from django_db_pooling.management.table import COLUMNS, table
from django_db_pooling.workers.verdict import verdict, verdicts
from tests.unit.test_overview import pool_report, report, seen

VISITOR: Any = SimpleNamespace(name="boss", may_act=True, may_resume=True, seen=None)


def overview_of(*pools: Any) -> Any:
    return seen(*(report(pid, default=pool) for pid, pool in enumerate(pools, 1)))


def said(*pools: Any) -> str:
    (pool,) = overview_of(*pools).pools
    return str(verdict(pool) or "")


def full(**stats: Any) -> Any:
    return pool_report(**{"in_use": 10, "waiting": 2, "held_seconds": 100.0, "busy_seconds": 10.0} | stats)


def test_nothing_is_said_of_a_pool_that_is_well() -> None:
    assert said(pool_report(in_use=10)) == ""
    assert table(overview_of(pool_report())).splitlines()[0].endswith("No callers are waiting.")


def test_who_holds_connections_for_something_else_is_told_of_release_and_scope() -> None:
    assert said(full()) == (
        "2 callers wait for a connection: all are in use. Connections in use spend 10 % of their time in "
        "statements: call pooling.release() before views wait for other services, or set SCOPE to "
        "'transaction'."
    )
    own = said(replace(full(), scope="transaction"))
    assert "atomic()" in own
    assert "SCOPE" not in own


def test_who_needs_them_is_told_of_the_limit() -> None:
    assert "80 % of their time in statements: look for slow ones, or raise MAX_OUTSTANDING" in said(
        full(busy_seconds=80.0)
    )
    assert "2 callers wait for a connection: all are in use in 1 of 2 processes." in said(
        full(), pool_report()
    )
    assert "raise HOST_LIMIT" in said(full(busy_seconds=80.0, host_limit=10, host_open=10))


def test_the_server_and_a_pause_are_no_fault_of_the_pool() -> None:
    assert said(full(open_when_refused=10)) == (
        "2 callers wait for a connection: the server takes no more connections. Raise its limit or lower "
        "MAX_OUTSTANDING: manage.py db_pools --plan tells what fits."
    )
    gone = replace(full(), troubles=[(2.0, "connect", "OperationalError: no route")])
    assert said(gone) == "2 callers wait for a connection: connecting fails. See the problems below."
    assert "connecting fails" not in said(replace(gone, troubles=[(99.0, "connect", "OperationalError")]))
    assert "1 caller waits for a connection: the pool is paused." in said(full(waiting=1, paused=20.0))


def test_callers_that_got_nothing_are_told_of_afterwards() -> None:
    (before,) = overview_of(full(waiting=0, timeouts=1)).pools
    assert verdict(before).is_now is False  # type: ignore[union-attr]
    assert str(verdict(before)).startswith(
        "1 caller got no connection in the last 5 minutes. Connections in use spend"
    )
    assert said(full(timeouts=1234)).startswith(
        "2 callers wait for a connection: all are in use; 1,234 callers got no connection in the last 5 "
        "minutes."
    )


def test_the_command_says_it_whole_before_all_figures() -> None:
    overview = overview_of(full())
    lines = table(overview).splitlines()
    assert lines[1].startswith("default: 2 callers wait for a connection: all are in use.")
    assert max(map(len, lines)) <= COLUMNS
    assert said(full()) in " ".join(map(str.strip, lines))
    assert table(overview, None).splitlines()[1] == f"default: {said(full())}"


def test_only_a_pool_that_is_not_well_has_one() -> None:
    overview = seen(report(1, default=full(), other=pool_report()))
    [(alias, found)] = verdicts(overview)
    assert (alias, str(found)) == ("default", said(full()))


PLACES = [
    (
        {"ENGINE": "django.db.backends.mysql", "NAME": "shop", "HOST": "db", "PORT": 3306, "PASSWORD": "x9"},
        "mysql shop at db:3306",
    ),
    ({"ENGINE": "django.db.backends.sqlite3", "NAME": "/srv/site.sqlite3"}, "sqlite3 /srv/site.sqlite3"),
    ({"ENGINE": "django.db.backends.postgresql", "NAME": ""}, "postgresql"),
    ({"ENGINE": "x.y", "NAME": "ldap://me:secret@host/"}, "y ldap://***@host/"),
]


@pytest.mark.parametrize(("settings", "place"), PLACES)
def test_a_place_is_told_without_secrets(settings: dict[str, Any], place: str) -> None:
    assert conf.place(settings) == place


def test_which_database_and_scope_is_told_and_where_they_differ_all_of_them() -> None:
    one = replace(pool_report(), database="mysql shop at db:3306", scope="request")
    assert "\n  mysql shop at db:3306, scope request\n" in table(overview_of(one, one))
    other = replace(one, database="mysql copy at db:3306")
    (pool,) = overview_of(one, other).pools
    assert (pool.databases, pool.scopes) == (["mysql copy at db:3306", "mysql shop at db:3306"], ["request"])
    shown = presentation._pool(pool, overview_of(one, other), VISITOR)
    assert shown["about"] == "mysql copy at db:3306 and mysql shop at db:3306, scope request"
