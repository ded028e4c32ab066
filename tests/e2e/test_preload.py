"""gunicorn --preload where the master has queried: its sessions stay its own, whatever its workers do."""

from __future__ import annotations

import importlib.util
import json
import os
import signal

import pytest

from tests.conftest import ALL_OF_MYSQL
from tests.e2e.checks import assert_tokens_are_their_own
from tests.e2e.manners import good_manners
from tests.e2e.observer import Observer
from tests.e2e.sites import Site, eventually, gunicorn
from tests.servers import DatabaseServer

PATIENCE = 30.0
MOST = 4
WAYS = [
    ("gevent", "mariadb", "pymysql"),
    ("gevent", "postgresql", "psycopg"),
    ("gthread", "mariadb", "pymysql"),
    ("gthread", "mariadb", "mysqlclient"),
    ("gthread", "postgresql", "psycopg"),
    ("gthread", "postgresql", "psycopg2"),
]
if ALL_OF_MYSQL:
    WAYS += [
        ("gevent", "mysql", "pymysql"),
        ("gthread", "mysql", "pymysql"),
        ("gthread", "mysql", "mysqlclient"),
    ]
MODULES = {"mysqlclient": "MySQLdb"}


def workers_that_answer(site: Site) -> int:
    answers = site.get_all(["/pool.json"] * 8)
    return len({json.loads(answer.text)["pid"] for answer in answers})


@pytest.fixture
def server(way: tuple[str, str, str], request: pytest.FixtureRequest) -> DatabaseServer:
    server: DatabaseServer = request.getfixturevalue(way[1])
    return server


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_masters_sessions_stay_its_own(
    way: tuple[str, str, str], server: DatabaseServer, observer: Observer
) -> None:
    """One of them is in use and one is idle when workers are forked, first one, then another."""
    worker, _, driver = way
    if importlib.util.find_spec(MODULES.get(driver, driver)) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{driver} is not installed")
    arguments = ["--preload", "--config=python:tests.site.master", "--threads=8"]
    settings = {
        "worker": worker,
        "arguments": arguments,
        "driver": driver,
        "query_at_start": "in two threads",
    }
    with good_manners(server, observer), gunicorn(server, pooling=(2, MOST), **settings) as site:
        of_master = set(observer.numbers())
        assert len(of_master) == 2
        for workers in (1, 2):
            if workers == 2:
                os.kill(site.pid, signal.SIGTTIN)
            eventually(lambda workers=workers: workers_that_answer(site) == workers, PATIENCE)
            with observer.watching() as watch:
                for _ in range(3):
                    assert_tokens_are_their_own(site, range(2))
                assert_tokens_are_their_own(site, range(12))
                answers = site.get_all(["/hold?s=0.1"] * 12)
            assert {answer.status for answer in answers} == {200}, answers
            assert of_master.isdisjoint({int(answer.text) for answer in answers})
            assert of_master <= set(observer.numbers())
            assert max(watch.highest, watch.most) <= workers * MOST + len(of_master)

        assert site.terminate() == 0
        [told] = [line for line in site.log.splitlines() if line.startswith("the master's connection is ")]
        assert int(told.split()[-1]) in of_master
