"""Who comes to the page of pools only when the pool is exhausted, and what the server sees of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import psycopg
import pymysql
import pytest

from tests.e2e.dashboard import PASSWORD, PoolsSite, Visitor, pools_site, token_of
from tests.e2e.observer import DATABASE, Observer
from tests.e2e.sites import Answer, eventually
from tests.servers import DatabaseServer, PostgreSQL

MOST = 2
# How many connections the test itself has, besides the observer's.
LOCKER = 1
LOCK_OF_MYSQL = "LOCK TABLES site_row WRITE"
PATIENCE = 30.0
# Seconds, of a line in which the others wait for much longer.
SOON = 5.0
STAFF = "django_db_pooling_staff"
BUSY = "another visitor’s login is being checked"
ADMINS_LOGIN = "/admin/login/?next=/pools/"
OWN_LOGIN = "/pools/login/?next=/pools/"


@pytest.fixture
def site(observer: Observer, server: DatabaseServer) -> Iterator[PoolsSite]:
    """The observer is there first: it waits until nobody is connected."""
    pool = {"TIMEOUT": 60, "MAX_WAITING": 50}
    with pools_site(server, pooling=(MOST, MOST), processes=1, pool=pool) as site:
        yield site


@contextmanager
def locked(server: DatabaseServer) -> Iterator[None]:
    """Who reads the table waits. The connection is one of those that the observer sees."""
    connection: Any
    if isinstance(server, PostgreSQL):
        connection, sql = psycopg.connect(server.url(DATABASE)), "LOCK TABLE site_row"
    else:
        account = {"host": server.host, "user": server.user, "password": server.password}
        connection, sql = pymysql.connect(port=server.port, database=DATABASE, **account), LOCK_OF_MYSQL
    with closing(connection), connection.cursor() as cursor:
        cursor.execute(sql)
        yield


@contextmanager
def exhausted(site: PoolsSite, observer: Observer, server: DatabaseServer) -> Iterator[None]:
    """All connections are in use, and two callers wait in line."""

    def is_exhausted() -> bool:
        pools = json.loads(site.manage("db_pools", "--json").stdout)["pools"]
        waiting = any(pool["total"]["waiting"] >= 2 for pool in pools)
        return waiting and observer.connections() == LOCKER + MOST

    with ExitStack() as after, locked(server):
        # Its visitors wait for their answers.
        after.callback(site.site.load("/one", clients=MOST + 2, seconds=90.0).end)
        eventually(is_exhausted, PATIENCE)
        yield
        eventually(is_exhausted, PATIENCE)


def soon(visitor: Visitor, path: str, method: str = "GET", **form: str) -> Answer:
    began = time.monotonic()
    answer = visitor.ask(path, method, **form)
    assert time.monotonic() - began < SOON
    return answer


def log_in(visitor: Visitor, name: str, password: str) -> Answer:
    form = soon(visitor, OWN_LOGIN)
    assert form.status == 200, form
    token = token_of(form.text)
    return soon(visitor, OWN_LOGIN, "POST", username=name, password=password, csrfmiddlewaretoken=token)


def new_session(site: PoolsSite, boss: Visitor) -> Visitor:
    """Of somebody who has not seen the page before."""
    visitor = site.visitor()
    visitor.set_cookie("sessionid", boss.cookie("sessionid") or "")
    return visitor


def test_somebody_on_call_logs_in_and_sees_the_page(
    site: PoolsSite, observer: Observer, server: DatabaseServer
) -> None:
    stranger = site.visitor()
    assert stranger.ask("/pools/").headers["Location"] == ADMINS_LOGIN
    with exhausted(site, observer, server), observer.watching() as watch:
        assert soon(stranger, "/pools/").headers["Location"] == OWN_LOGIN
        wrong = log_in(stranger, "boss", "a wrong one")
        assert wrong.status == 200 and 'class="errornote"' in wrong.text
        assert stranger.cookie("sessionid") is None
        right = log_in(stranger, "boss", PASSWORD)
        assert (right.status, right.headers["Location"]) == (302, "/pools/"), right
        page = soon(stranger, "/pools/")
        assert page.status == 200 and "callers wait for a connection" in page.text
        assert stranger.cookie(STAFF)
        # From now on by that cookie, without another connection.
        assert "Your login could not be checked" in soon(stranger, "/pools/live/").text
        assert site.visitor().ask("/pools/live/").status == 403
        # A login isn't staff's.
        guest = site.visitor()
        assert log_in(guest, "guest", PASSWORD).status == 200
        assert guest.cookie("sessionid") is None
    assert watch.highest <= LOCKER + MOST + 1
    eventually(lambda: observer.connections() <= MOST, PATIENCE)
    # The session is a real one.
    assert "Log out" in stranger.ask("/admin/").text or "Abmelden" in stranger.ask("/admin/").text
    # Otherwise it is the admin's own login.
    answer = site.visitor().ask(OWN_LOGIN)
    assert (answer.status, answer.headers["Location"]) == (302, ADMINS_LOGIN)


def test_one_is_asked_at_a_time_and_the_others_are_told_at_once(
    site: PoolsSite, observer: Observer, server: DatabaseServer
) -> None:
    boss = site.visitor("boss")
    visitors = [new_session(site, boss) for _ in range(12)]
    with exhausted(site, observer, server), observer.watching() as watch:
        with ThreadPoolExecutor(len(visitors)) as pool:
            answers = list(pool.map(lambda visitor: soon(visitor, "/pools/"), visitors))
        turned_away = [answer for answer in answers if answer.status == 503]
        assert 0 < len(turned_away) < len(visitors)
        for answer in turned_away:
            assert BUSY in answer.text and "python manage.py db_pools" in answer.text
            assert '<meta http-equiv="refresh" content="5; url=/pools/">' in answer.text
            assert answer.headers["Content-Type"].startswith("text/html")
            assert answer.headers["Retry-After"] == "5"
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert {answer.status for answer in answers} == {200, 503}
        # As it does by itself.
        for visitor, answer in zip(visitors, answers, strict=True):
            if answer.status == 503:
                assert soon(visitor, "/pools/").status == 200
    assert watch.most == LOCKER + MOST + 1, watch
    eventually(lambda: observer.connections() <= MOST, PATIENCE)


def test_nothing_else_gets_past_the_limit(
    site: PoolsSite, observer: Observer, server: DatabaseServer
) -> None:
    boss = site.visitor("boss")
    with ThreadPoolExecutor(1) as pool, exhausted(site, observer, server), observer.watching() as watch:
        other = pool.submit(site.visitor().ask, "/hold?s=0")
        assert soon(new_session(site, boss), "/pools/").status == 200
        assert not other.done()
    assert other.result().status == 200
    assert watch.highest <= LOCKER + MOST + 1
    eventually(lambda: observer.connections() <= MOST, PATIENCE)


def test_in_a_pause_nobody_is_connected(site: PoolsSite, observer: Observer) -> None:
    boss = site.visitor("boss")
    eventually(lambda: site.manage("db_pools").returncode == 0, PATIENCE)
    done = site.manage("db_pools", "--pause", "20", "--wait")
    assert done.returncode == 0, done.stderr
    try:
        eventually(lambda: observer.connections() == 0, PATIENCE)
        with observer.watching() as watch:
            answer = soon(new_session(site, boss), "/pools/")
            assert answer.status == 503 and "The pool is paused" in answer.text
        assert watch.highest == 0
    finally:
        site.manage("db_pools", "--resume")
