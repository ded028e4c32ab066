"""Two servers behind HAProxy, the second of which takes over: who fails, and where all are afterwards."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from tests.conftest import require
from tests.e2e.checks import assert_every_slot_is_usable
from tests.e2e.conftest import MAX_CONNECTIONS, create_rows
from tests.e2e.observer import DATABASE
from tests.e2e.sites import Site, eventually, gunicorn
from tests.servers import DatabaseServer, HAProxy, MariaDB, PostgreSQL, ServerError
from tests.servers.haproxy import CHECKER

pytestmark = pytest.mark.timeout(180)

PATIENCE = 60.0
# Seconds of a load that is ended by its test.
LONG = 100.0
# Of those that HAProxy takes to notice, and of what a busy machine needs besides.
SOON = 20.0
MOST = 4
# It may do anything in its database; to write to a server that is read-only takes more.
USER = "visitor"
PASSWORD = "secret"
WRITE = "/transaction?t="
# What the servers say of a write while they are read-only.
REFUSED = "read-only"

WAYS = {
    "gevent": ("gevent", {"mysql": "pymysql", "postgres": "psycopg"}, ["--keep-alive=60"]),
    "threads": ("gthread", {"mysql": "mysqlclient", "postgres": "psycopg2"}, ["--threads=24"]),
}

both_ways = pytest.mark.parametrize("way", WAYS)


class Pair(NamedTuple):
    """Two servers that know nothing of each other."""

    first: DatabaseServer
    second: DatabaseServer


def prepare(server: DatabaseServer) -> None:
    create_rows(server)
    if server.scheme == "mysql":
        server.execute(
            f"CREATE USER '{CHECKER}'@'%'; CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';"
            f" GRANT ALL ON {DATABASE}.* TO '{USER}'@'%'"
        )
    else:
        server.execute(
            f"CREATE USER {USER} PASSWORD '{PASSWORD}'; GRANT ALL ON ALL TABLES IN SCHEMA public TO {USER};"
            f" GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {USER}",
            DATABASE,
        )


@pytest.fixture(scope="module", params=[MariaDB, PostgreSQL], ids=lambda server: server.__name__)
def servers(request: pytest.FixtureRequest) -> Iterator[Pair]:
    require(request.param)
    require(HAProxy)
    with request.param(MAX_CONNECTIONS) as first, request.param(MAX_CONNECTIONS) as second:
        for server in (first, second):
            prepare(server)
        yield Pair(first, second)


@pytest.fixture
def pair(servers: Pair) -> Iterator[Pair]:
    """Both are up, can be written to, and have no marks."""
    for server in servers:
        # One that was silent may still be busy with what it had been asked before.
        eventually(lambda server=server: sessions(server) == 0, PATIENCE)
        server.execute("DELETE FROM site_mark", DATABASE)
    yield servers
    for server in servers:
        server.resume() if is_up(server) else server.start()
        read_only(server, False)


@pytest.fixture
def proxy(pair: Pair) -> Iterator[HAProxy]:
    with HAProxy(pair) as proxy:
        yield proxy


def is_up(server: DatabaseServer) -> bool:
    try:
        return server.pid > 0
    except ServerError:
        return False


def read_only(server: DatabaseServer, how: bool) -> None:
    """What a tool for failovers does to the server that was the primary."""
    if server.scheme == "mysql":
        server.execute(f"SET GLOBAL read_only = {int(how)}")
        return
    word = "on" if how else "off"
    server.execute(f"ALTER SYSTEM SET default_transaction_read_only = {word}; SELECT pg_reload_conf()")
    eventually(lambda: server.execute("SHOW default_transaction_read_only") == [(word,)], PATIENCE)


def sessions(server: DatabaseServer) -> int:
    """Those of the site at this server."""
    table = {"mysql": "information_schema.processlist WHERE db", "postgres": "pg_stat_activity WHERE datname"}
    [(count,)] = server.execute(f"SELECT count(*) FROM {table[server.scheme]} = '{DATABASE}'")
    return int(count)


def marks(server: DatabaseServer) -> Counter[str]:
    """How many each token has left at this server: two, or it was only half of a transaction."""
    rows = server.execute("SELECT token, count(*) FROM site_mark GROUP BY token", DATABASE)
    return Counter({token: int(count) for token, count in rows})


@contextmanager
def site_behind(proxy: HAProxy, server: DatabaseServer, way: str, **pool: Any) -> Iterator[Site]:
    worker, drivers, arguments = WAYS[way]
    url = f"{server.scheme}://{USER}:{PASSWORD}@{proxy.host}:{proxy.port}/{DATABASE}"
    settings = {"driver": drivers[server.scheme], "database_url": url}
    settings["pool"] = {"CONNECT_RETRY": 30, "TIMEOUT": 50} | pool
    with gunicorn(server, pooling=(MOST, MOST), worker=worker, arguments=arguments, **settings) as site:
        yield site


def fill(site: Site, server: DatabaseServer) -> None:
    """Have all connections opened, to this server, and nobody use them."""
    assert_every_slot_is_usable(site)
    eventually(lambda: site.stats()["idle"] == MOST, PATIENCE)
    assert sessions(server) == MOST


def write(site: Site, tokens: list[str], at_once: int = 1) -> dict[str, str]:
    """One visitor for each token; the answers that were not as they should be, by token."""
    answers = site.get_all([WRITE + token for token in tokens], at_once)
    asked = zip(tokens, answers, strict=True)
    return {token: answer.text for token, answer in asked if (answer.status, answer.text) != (200, token)}


def assert_all_are_at(server: DatabaseServer, other: DatabaseServer | None, site: Site) -> None:
    def are_there() -> bool:
        stats = site.stats()
        is_left = other is None or sessions(other) == 0
        return is_left and 0 < sessions(server) == stats["opened"] - stats["closed"]

    eventually(are_there, PATIENCE)


# -- crash -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "way"), [("killed", "gevent"), ("killed", "threads"), ("silent", "gevent")])
def test_when_the_first_is_lost_only_statements_in_flight_fail(
    pair: Pair, proxy: HAProxy, how: str, way: str
) -> None:
    """The silent one is as a machine without power: nobody hears that its connections have ended."""
    first, second = pair
    with site_behind(proxy, first, way) as site:
        fill(site, first)
        load = site.load(f"{WRITE}TOKEN", "/token?t=TOKEN", clients=20, seconds=LONG)
        eventually(lambda: len(marks(first)) > 20, PATIENCE)
        assert marks(second) == {}
        if how == "killed":
            first.kill()
        else:
            first.suspend()
        lost = time.monotonic()
        eventually(lambda: len(marks(second)) > 20, SOON)
        report = load.end()
        print(first.scheme, report, f"all ended {time.monotonic() - lost:.1f} s after the loss")

        assert (report["failed"], report["wrong"]) == ({}, [])
        assert 0 < report["begun"] - report["answered"]["200"] <= MOST, report
        # Who comes afterwards waits, but is served.
        assert report["last_trouble_began"] < lost
        assert report["fewest_answers_of_a_client"] > 0
        assert report["longest_seconds"] < SOON
        assert set(marks(second).values()) == {2}
        assert_every_slot_is_usable(site)
        assert_all_are_at(second, None, site)


# -- planned switch --------------------------------------------------------------------------------------


@both_ways
def test_in_a_planned_switch_one_write_fails_and_after_recycle_none(
    pair: Pair, proxy: HAProxy, way: str
) -> None:
    """While others read, of whom nobody fails. There without, and back with it."""
    first, second = pair
    with site_behind(proxy, first, way) as site:
        fill(site, first)
        readers = site.load("/one", clients=3, seconds=LONG)
        read_only(first, True)
        proxy.set_state(first, "drain")
        there = [f"there-{number}" for number in range(3 * MOST)]
        failed = write(site, there)
        assert len(failed) == 1, failed
        assert all(REFUSED in text for text in failed.values()), failed
        assert (marks(first), marks(second)) == ({}, dict.fromkeys(set(there) - set(failed), 2))
        assert_all_are_at(second, first, site)

        read_only(second, True)
        read_only(first, False)
        proxy.set_state(first, "ready")
        assert site.get("/recycle").status == 200
        back = [f"back-{number}" for number in range(10 * MOST)]
        assert write(site, back, at_once=2 * MOST) == {}
        assert marks(first) == dict.fromkeys(back, 2)
        assert_all_are_at(first, second, site)
        report = readers.end()
        print(first.scheme, report, site.stats())
        assert (report["failed"], report["answered"]) == ({}, {"200": report["begun"]})
        assert_every_slot_is_usable(site)


# -- outage ----------------------------------------------------------------------------------------------


@both_ways
def test_both_are_down_for_a_moment_and_nobody_fails_who_comes_meanwhile(
    pair: Pair, proxy: HAProxy, way: str
) -> None:
    first, second = pair
    with site_behind(proxy, first, way) as site, ThreadPoolExecutor(1) as executor:
        fill(site, first)
        for server in pair:
            server.kill()
        # HAProxy has noticed, and hangs up on whoever comes.
        eventually(lambda: proxy.execute("show stat").count(",DOWN,") >= 2, PATIENCE)
        tokens = [f"token-{number}" for number in range(20)]
        visitors = executor.submit(write, site, tokens, len(tokens))
        eventually(lambda: site.stats()["waiting"] + site.stats()["opening"] >= len(tokens), PATIENCE)
        for server in pair:
            server.start()
        assert visitors.result() == {}
        assert marks(first) + marks(second) == dict.fromkeys(tokens, 2)
        assert_every_slot_is_usable(site)
