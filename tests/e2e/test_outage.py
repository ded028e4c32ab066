"""The server is away, silent, slow or full, or a worker ends: who fails, who doesn't, and what is left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests import processes
from tests.e2e.checks import assert_every_slot_is_usable, assert_tokens_are_their_own, is_at_rest
from tests.e2e.manners import good_manners
from tests.e2e.observer import MySQLObserver, Observer
from tests.e2e.sites import Answer, Site, eventually, gunicorn, url_through
from tests.proxy import TcpProxy
from tests.servers import DatabaseServer, MariaDB

PATIENCE = 60.0
# Seconds of a load that is ended by its test.
LONG = 100.0
MOST = 4
POOLING = (MOST, MOST)
SECOND = "e2e_second"
MIDDLEWARE = "django_db_pooling.middleware.PoolTimeoutMiddleware"
# gunicorn drops visitors whose request it hasn't read after --keep-alive seconds (2), should it be that busy.
ARGUMENTS = ["--keep-alive=60"]
WITH_TOKENS = [f"/{path}?t=TOKEN" for path in ("token", "transaction", "mixed", "session", "left_open")]


def fill(site: Site) -> None:
    """Have all connections opened, and nobody use them."""
    eventually(
        lambda: (
            {answer.status for answer in site.get_all(["/hold?s=0.3"] * MOST)} == {200}
            and site.stats()["idle"] == MOST
        ),
        PATIENCE,
    )


def goes_on(site: Site, checkouts: int) -> None:
    """Wait until its visitors have had so many connections more."""
    before = site.stats()["checkouts"]
    eventually(lambda: site.stats()["checkouts"] >= before + checkouts, PATIENCE)


def statuses(answers: list[Answer]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


# -- restarts and outages -----------------------------------------------------------------------------


@pytest.mark.timeout(180)
def test_while_the_server_restarts_only_statements_in_flight_fail(server: DatabaseServer) -> None:
    # A busy machine may take its time to start a server.
    pool = {"CONNECT_RETRY": 30, "TIMEOUT": 50}
    with gunicorn(server, pooling=(5, 10), pool=pool, arguments=ARGUMENTS) as site:
        load = site.load("/one", clients=50, seconds=LONG)
        goes_on(site, 100)
        server.stop()
        time.sleep(2)
        server.start()
        goes_on(site, 100)
        report = load.end()
        afterwards = site.load("/one", clients=50, seconds=1).report()
        failures = report["begun"] - report["answered"]["200"]
        print(f"{server.scheme}: {failures} of {report['begun']} requests failed", report, afterwards)

        assert report["failed"] == {}
        assert failures <= 10
        assert afterwards["answered"] == {"200": afterwards["begun"]}
        assert_every_slot_is_usable(site)


@pytest.mark.timeout(180)
def test_in_a_longer_outage_all_fail_and_new_callers_at_once_until_the_server_is_back(
    server: DatabaseServer,
) -> None:
    with gunicorn(server, pooling=POOLING, pool={"CONNECT_RETRY": 1, "TIMEOUT": 50}) as site:
        fill(site)
        server.stop()
        assert statuses(site.get_all(["/one"] * 20)) == {500: 20}
        meanwhile = site.load("/one", clients=20, seconds=2).report()
        stats = site.stats()
        print(f"{server.scheme}: {meanwhile['begun']} requests got their answer in 2 s of outage", meanwhile)
        assert meanwhile["failed"] == {}
        assert meanwhile["answered"] == {"500": meanwhile["begun"]}
        # If each had waited for TIMEOUT it were 20, for CONNECT_RETRY 60.
        assert meanwhile["begun"] > 100
        assert (stats["timeouts"], stats["in_use"], stats["waiting"]) == (0, 0, 0)

        server.start()
        assert site.get("/one") == Answer(200, "row 1")
        assert_every_slot_is_usable(site)


# -- connections that die -----------------------------------------------------------------------------


def test_all_in_use_are_killed_and_all_that_wait_are_served(
    server: DatabaseServer, observer: Observer
) -> None:
    with gunicorn(server, pooling=POOLING) as site, ThreadPoolExecutor(30) as pool:
        fill(site)
        # Longer than a test may take: who waits for one of these to end by itself waits in vain.
        victims = [pool.submit(site.get, "/sleep?s=600") for _ in range(MOST)]
        eventually(lambda: site.stats()["in_use"] == MOST, PATIENCE)
        waiters = [pool.submit(site.get, "/one") for _ in range(20)]
        eventually(lambda: site.stats()["waiting"] == 20, PATIENCE)
        observer.kill()

        assert statuses([waiter.result() for waiter in waiters]) == {200: 20}
        assert statuses([victim.result() for victim in victims]) == {500: MOST}
        assert_every_slot_is_usable(site)


def test_ten_dead_connections_and_a_live_server_are_no_stall_and_no_failure(
    server: DatabaseServer, observer: Observer
) -> None:
    dead = 10
    with (
        TcpProxy(server.host, server.port) as proxy,
        gunicorn(
            server, pooling=(dead, dead), pool={"TIMEOUT": 50}, database_url=url_through(proxy, server)
        ) as site,
    ):
        assert_every_slot_is_usable(site)
        assert site.stats()["idle"] == dead
        proxy.drop(reset=True)
        eventually(lambda: observer.connections() == 0, PATIENCE)
        assert site.get("/one") == Answer(200, "row 1")
        assert statuses(site.get_all(["/one", "/atomic"] * 20)) == {200: 40}
        stats = site.stats()
        assert stats["timeouts"] == 0
        assert stats["broken"] == dead
        assert_every_slot_is_usable(site)


# -- silence ------------------------------------------------------------------------------------------


def test_a_server_that_is_silent_for_5_seconds_costs_nobody_anything(
    server: DatabaseServer, observer: Observer
) -> None:
    with gunicorn(server, pooling=POOLING, pool={"TIMEOUT": 50}, arguments=ARGUMENTS) as site:
        load = site.load(*WITH_TOKENS, clients=20, seconds=LONG)
        goes_on(site, 20)
        server.suspend()
        try:
            time.sleep(5)
        finally:
            server.resume()
        report = load.end()
        print(server.scheme, report)

        assert report["wrong"] == []
        assert report["failed"] == {}
        assert report["answered"] == {"200": report["begun"]}
        assert_whole(site, observer)


@pytest.mark.timeout(180)
def test_whatever_the_network_does_no_result_is_wrong_and_no_slot_is_lost(
    server: DatabaseServer, observer: Observer
) -> None:
    with (
        TcpProxy(server.host, server.port) as proxy,
        gunicorn(
            server,
            pooling=POOLING,
            pool={"TIMEOUT": 50},
            arguments=ARGUMENTS,
            database_url=url_through(proxy, server),
        ) as site,
    ):
        load = site.load(*WITH_TOKENS, clients=20, seconds=LONG)

        def stop_and_start() -> None:
            proxy.refuse()
            proxy.drop()
            time.sleep(0.3)

        faults: list[Callable[[], None]] = [
            stop_and_start,
            lambda: proxy.delay(0.05),
            proxy.cut,
            proxy.deaf,
            lambda: proxy.drop(reset=True),
            proxy.cut,
        ]
        goes_on(site, 10)
        for fault in faults:
            fault()
            time.sleep(0.3)
            proxy.resume()
            goes_on(site, 10)
        report = load.end()
        print(server.scheme, report, site.stats())

        assert report["wrong"] == []
        assert report["failed"] == {}
        assert report["answered"]["200"] > 0
        assert site.stats()["broken"] > 0
        assert_whole(site, observer)


def assert_whole(site: Site, observer: Observer) -> None:
    eventually(lambda: is_at_rest(site), PATIENCE)
    assert_every_slot_is_usable(site)
    assert_tokens_are_their_own(site, range(12))
    eventually(lambda: is_at_rest(site) and observer.connections() == site.stats()["idle"], PATIENCE)
    stats = site.stats()
    assert stats["opened"] - stats["closed"] == stats["idle"]


# -- overload -----------------------------------------------------------------------------------------


def test_of_two_pools_nested_in_opposite_order_nobody_waits_until_the_timeout(
    server: DatabaseServer,
) -> None:
    """The transactions of some requests fail at once, for those of the others to go on."""
    server.create(SECOND)
    with gunicorn(server, pooling=POOLING, pool={"TIMEOUT": 60}, second=SECOND) as site:
        began = time.monotonic()
        answers = site.get_all(["/nested?first=default", "/nested?first=second"] * 20)
        assert time.monotonic() - began < 30
        refused = [answer for answer in answers if answer.status != 200]
        print(server.scheme, statuses(answers), refused[:2])
        assert 0 < len(refused) < len(answers)
        assert {answer.status for answer in refused} == {500}
        for answer in refused:
            assert answer.text.startswith("PoolTimeout: No connection from pool '"), answer
            assert "wait for a connection, too" in answer.text, answer

        eventually(lambda: is_at_rest(site), PATIENCE)
        assert site.get("/nested?first=default") == Answer(200, "both")
        assert_every_slot_is_usable(site)


def test_with_the_middleware_too_many_visitors_get_503_and_are_told_when_to_come_again(
    mariadb: MariaDB,
) -> None:
    pool = {"TIMEOUT": 0.5, "MAX_WAITING": 10}
    with gunicorn(mariadb, pooling=POOLING, pool=pool, middleware=MIDDLEWARE) as site:
        answers = site.get_all(["/hold?s=2"] * 40)
        count = statuses(answers)
        print(count)
        assert count[200] >= MOST
        assert count[503] >= 10
        assert count[200] + count[503] == 40, answers
        assert {answer.headers["Retry-After"] for answer in answers if answer.status == 503} == {"5"}
        assert_every_slot_is_usable(site)


# -- the end of a worker ------------------------------------------------------------------------------


@contextmanager
def workers_of(server: DatabaseServer, observer: Observer, *arguments: str) -> Iterator[Site]:
    """A site whose connections are all closed as the protocol wants it, however its workers end."""
    arguments = ("--graceful-timeout=20", *arguments)
    with good_manners(server, observer), gunicorn(server, pooling=POOLING, arguments=arguments) as site:
        yield site


def worker_of(site: Site) -> int:
    [worker] = [pid for pid in processes.family(site.pid) if pid != site.pid]
    return worker


def test_workers_that_end_after_some_requests_say_goodbye(server: DatabaseServer, observer: Observer) -> None:
    with workers_of(server, observer, "--max-requests=50") as site:
        first = worker_of(site)
        report = site.load("/one", "/atomic", "/token?t=TOKEN", clients=12, seconds=3).report()
        print(server.scheme, report)
        assert worker_of(site) != first
        assert report["wrong"] == []
        assert report["failed"] == {}
        assert report["answered"] == {"200": report["begun"]}
        # Each worker that is there, and the next one while the last one ends.
        assert observer.connections() <= 2 * MOST


def test_a_graceful_stop_under_load_says_goodbye(server: DatabaseServer, observer: Observer) -> None:
    with workers_of(server, observer) as site:
        load = site.load("/one", "/atomic", "/token?t=TOKEN", clients=12, seconds=LONG)
        goes_on(site, 50)
        assert site.terminate() == 0
        report = load.end()
        print(server.scheme, report)
        assert report["wrong"] == []
        assert set(report["answered"]) == {"200"}


def test_a_worker_that_gunicorn_ends_for_its_silence_leaves_no_connection(
    mariadb: MariaDB, observer: MySQLObserver
) -> None:
    with gunicorn(mariadb, pooling=POOLING, arguments=["--timeout=2"]) as site, ThreadPoolExecutor(1) as pool:
        fill(site)
        worker = worker_of(site)
        before = observer.numbers()
        aborted = observer.status("Aborted_clients")
        silent = pool.submit(site.get, "/spin?s=100")
        eventually(lambda: processes.has_ended(worker), PATIENCE)
        assert silent.result().status != 200
        eventually(lambda: site.get("/one").status == 200, PATIENCE)
        eventually(lambda: not set(before) & set(observer.numbers()), PATIENCE)
        if "SIGKILL" not in site.log:
            # It was asked to end, and had the time.
            assert observer.status("Aborted_clients") == aborted
        assert_every_slot_is_usable(site)
