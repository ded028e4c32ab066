"""Requests that die, clients that leave, servers that restart: afterwards all works and nothing is lost."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests import processes
from tests.e2e.checks import assert_every_slot_is_usable, assert_tokens_are_their_own, is_at_rest
from tests.e2e.observer import MySQLObserver, Observer
from tests.e2e.sites import Answer, Site, eventually, gunicorn
from tests.servers import HOST, DatabaseServer, MariaDB

PATIENCE = 30.0
MOST = 5
POOLING = (MOST, MOST)


def kill_workers(site: Site) -> None:
    """Return when they are gone; what comes then waits for their successors."""
    workers = [pid for pid in processes.family(site.pid) if pid != site.pid]
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    for pid in workers:
        eventually(lambda pid=pid: processes.has_ended(pid), PATIENCE)


# -- requests that end without request_finished -----------------------------------------------------


@pytest.mark.parametrize("how", ["timeout", "kill", "atomic"])
def test_requests_that_die_in_a_statement_lose_no_slot(server: DatabaseServer, how: str) -> None:
    with gunicorn(server, pooling=POOLING, arguments=["--keep-alive=1"]) as site:
        answers = site.get_all([f"/die?how={how}&s=0.2"] * 50)
        assert 200 not in {answer.status for answer in answers}, answers

        assert_every_slot_is_usable(site)
        assert site.stats()["broken"] >= 50


def test_requests_that_time_out_around_the_application_lose_no_slot(mariadb: MariaDB) -> None:
    """While they connect, wait for a connection, wait for the server, or are about to end by themselves."""
    with gunicorn(mariadb, pooling=POOLING) as site:
        for seconds in (0.001, 0.005, 0.01, 0.05, 0.3):
            paths = [f"/sleep?s=0.1&deadline={seconds}", f"/one?deadline={seconds}", "/one"]
            answers = site.get_all(paths * 16)
            assert {answer.status for answer in answers[2::3]} == {200}, seconds

        assert_every_slot_is_usable(site)


def test_requests_that_time_out_between_statements_give_their_connections_back_whole(
    server: DatabaseServer,
) -> None:
    with gunicorn(server, pooling=POOLING) as site:
        assert_every_slot_is_usable(site)
        for _ in range(3):
            # No more than there are slots: a waiter is served by the end of another, and would then be
            # interrupted in its statement.
            answers = site.get_all(["/hold?s=5&deadline=0.5"] * MOST)
            assert 200 not in {answer.status for answer in answers}, answers

        assert_every_slot_is_usable(site)
        stats = site.stats()
        assert stats["opened"] <= MOST
        assert (stats["broken"], stats["reclaimed"]) == (0, 0)


def test_a_killed_request_whose_client_stays_connected_holds_nothing(mariadb: MariaDB) -> None:
    """gunicorn swallows GreenletExit and waits in the same greenlet for the client's next request."""
    with gunicorn(mariadb, pooling=POOLING, arguments=["--keep-alive=20"]) as site, ExitStack() as stack:
        for _ in range(MOST):
            client = stack.enter_context(socket.create_connection((HOST, site.port)))
            client.sendall(f"GET /die?how=between&s=0.5 HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        eventually(lambda: site.stats()["in_use"] == MOST, PATIENCE)
        # Well before the 20 s are over.
        eventually(lambda: is_at_rest(site), 10)
        assert_every_slot_is_usable(site)


def test_a_transaction_that_dies_leaves_nothing_in_the_database(server: DatabaseServer) -> None:
    counter = "SELECT counter FROM site_row WHERE id = 3"
    before = server.execute(counter, "e2e")
    with gunicorn(server, pooling=(1, 1)) as site:
        assert site.get("/die?how=atomic&s=0.2").status != 200
        assert site.get("/one").text == "row 1"
        assert is_at_rest(site)
    eventually(lambda: server.execute(counter, "e2e") == before, PATIENCE)


# -- clients that leave -------------------------------------------------------------------------------


def ask_and_leave(site: Site, path: str, reset: bool, after: float) -> None:
    with socket.create_connection((HOST, site.port)) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        time.sleep(after)
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_clients_that_leave_in_the_middle_lose_no_slot(mariadb: MariaDB) -> None:
    with gunicorn(mariadb, pooling=POOLING) as site, ThreadPoolExecutor(30) as pool:
        for path in ("/sleep?s=0.3", "/hold?s=0.3", "/stream?s=0.05"):
            leaving = [
                pool.submit(ask_and_leave, site, path, reset=number % 2 == 0, after=number % 3 / 10)
                for number in range(30)
            ]
            for client in leaving:
                client.result()
            eventually(lambda: is_at_rest(site), PATIENCE)

        assert_every_slot_is_usable(site)


def test_half_a_request_takes_no_connection(mariadb: MariaDB) -> None:
    with gunicorn(mariadb, pooling=POOLING) as site:
        clients = [socket.create_connection((HOST, site.port)) for _ in range(20)]
        for client in clients:
            client.sendall(b"GET /one HTTP/1.1\r\nHost: ")
        assert_every_slot_is_usable(site)
        for client in clients:
            client.close()


# -- the database server ------------------------------------------------------------------------------


@pytest.mark.timeout(180)
def test_after_a_restart_of_the_server_no_request_fails(server: DatabaseServer) -> None:
    with gunicorn(server, pooling=(MOST, 10)) as site:
        meanwhile = site.load("/one", clients=8, seconds=6)
        eventually(lambda: site.stats()["checkouts"] > 20, PATIENCE)
        server.restart()
        restarted = time.monotonic()
        afterwards = site.load("/one", clients=8, seconds=3).report()
        report = meanwhile.report()
        print(restarted, report, afterwards)

        assert (report["last_trouble_began"] or 0) < restarted
        assert afterwards["failed"] == {}
        assert afterwards["answered"] == {"200": afterwards["begun"]}
        assert_every_slot_is_usable(site)


def test_all_idle_connections_are_killed_and_of_200_requests_none_fails(
    server: DatabaseServer, observer: Observer
) -> None:
    with gunicorn(server, pooling=(20, 20)) as site:
        eventually(
            lambda: (
                {answer.status for answer in site.get_all(["/hold?s=1"] * 20)} == {200}
                and observer.connections() == 20
            ),
            PATIENCE,
        )
        observer.kill()
        eventually(lambda: observer.connections() == 0, PATIENCE)

        answers = site.get_all(["/one", "/atomic"] * 100, at_once=20)
        assert {answer.status for answer in answers} == {200}, answers
        eventually(lambda: is_at_rest(site), PATIENCE)


# -- processes ----------------------------------------------------------------------------------------


def test_preloaded_the_first_request_of_a_worker_is_answered(mariadb: MariaDB) -> None:
    """Importing models makes a wrapper, in the master here. It is nobody's in a worker."""
    with gunicorn(mariadb, pooling=(2, 4), arguments=["--preload"]) as site:
        kill_workers(site)
        assert site.get("/one") == Answer(200, "row 1")


@pytest.mark.parametrize("workers", [1, 2])
def test_preloaded_two_requests_at_once_get_their_own_tokens(mariadb: MariaDB, workers: int) -> None:
    """Django's thread-local storage was made before gevent patched threading; all would share a wrapper."""
    with gunicorn(mariadb, pooling=(2, 4), arguments=["--preload", f"--workers={workers}"]) as site:
        for first in range(0, 10, 2):
            assert_tokens_are_their_own(site, range(first, first + 2))
        assert_tokens_are_their_own(site, range(100, 130))


def test_a_connection_that_the_master_opened_is_used_by_no_worker(
    mariadb: MariaDB, observer: Observer
) -> None:
    """Preloaded code has made a query, so every worker is forked with an idle connection in its pool."""
    arguments = ["--preload", "--workers=2"]
    with gunicorn(mariadb, pooling=(2, 4), arguments=arguments, query_at_start="1") as site:
        [of_master] = observer.numbers()
        assert_tokens_are_their_own(site, range(40))
        answers = site.get_all(["/hold?s=0.2"] * 16)
        assert str(of_master) not in {answer.text for answer in answers}
        assert of_master in observer.numbers()
        assert observer.connections() <= 2 * 4 + 1


def test_two_workers_open_at_most_two_times_max_outstanding(
    server: DatabaseServer, observer: Observer
) -> None:
    with gunicorn(server, pooling=(2, 4), arguments=["--workers=2"]) as site:
        with observer.watching() as watch:
            report = site.load("/one", clients=60, seconds=3).report()
        print(report, watch)

        assert report["failed"] == {}
        assert report["answered"] == {"200": report["begun"]}
        assert watch.highest <= 8
        assert 4 < watch.most <= 8


def test_a_graceful_stop_answers_what_has_begun_and_leaves_no_connection(
    mariadb: MariaDB, observer: MySQLObserver
) -> None:
    with gunicorn(mariadb, pooling=POOLING) as site, ThreadPoolExecutor(3) as pool:
        assert {answer.status for answer in site.get_all(["/hold?s=0.3"] * MOST)} == {200}
        assert observer.connections() > 0
        aborted = observer.status("Aborted_clients")
        late = [pool.submit(site.get, "/hold?s=2") for _ in range(3)]
        eventually(lambda: site.stats()["in_use"] == 3, PATIENCE)

        assert site.terminate() == 0

        assert {answer.result().status for answer in late} == {200}
        eventually(lambda: observer.connections() == 0, PATIENCE)
        assert observer.status("Aborted_clients") == aborted


def test_a_killed_worker_leaves_no_connection_and_the_next_one_works(
    mariadb: MariaDB, observer: Observer
) -> None:
    with gunicorn(mariadb, pooling=POOLING) as site:
        before = site.get_all(["/hold?s=0.3"] * MOST)
        assert {answer.status for answer in before} == {200}
        kill_workers(site)
        eventually(lambda: site.get("/one").status == 200, PATIENCE)
        assert_every_slot_is_usable(site)
        eventually(lambda: observer.connections() == MOST, PATIENCE)


# -- greenlets ----------------------------------------------------------------------------------------


def test_a_greenlet_spawned_in_a_view_gives_its_connection_back(mariadb: MariaDB) -> None:
    with gunicorn(mariadb, pooling=(2, 2)) as site:
        answers = site.get_all(["/spawn"] * 40, at_once=8)
        assert {(answer.status, answer.text) for answer in answers} == {(200, "row 1")}, answers
        assert is_at_rest(site)
        stats = site.stats()
        assert stats["checkouts"] == 40
        assert stats["opened"] <= 2
        assert stats["reclaimed"] == 0


def test_a_view_without_queries_takes_nothing(mariadb: MariaDB, observer: Observer) -> None:
    with gunicorn(mariadb, pooling=(2, 2)) as site:
        site.get_all(["/nothing"] * 20)
        assert site.stats()["checkouts"] == 0
        assert observer.connections() == 0
