"""uvicorn: every request has a thread of its own for sync code, and clients that leave are noticed."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext

import pytest

from tests.e2e.checks import (
    PATIENCE,
    assert_every_slot_is_usable,
    assert_tokens_are_their_own,
    is_at_rest,
)
from tests.e2e.conftest import ROWS
from tests.e2e.manners import good_manners
from tests.e2e.observer import Observer
from tests.e2e.sites import ROOT, Site, eventually, uvicorn
from tests.servers import HOST, DatabaseServer, PostgreSQL

MOST = 5
POOLING = (MOST, MOST)
TOKEN_PATHS = ["/async/orm", "/async/token", "/async/gather", "/async/deadline", "/token"]


@contextmanager
def visitor(site: Site, path: str) -> Iterator[socket.socket]:
    """One who has asked, and leaves at the end of the block."""
    with socket.create_connection((HOST, site.port), timeout=PATIENCE) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        yield client


def read_until(client: socket.socket, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        received = client.recv(65_536)
        assert received, seen
        seen += received
    return seen


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65_536), b""))


def all_hold_or_wait(site: Site, waiting: int) -> bool:
    stats = site.stats()
    return (stats["in_use"], stats["waiting"]) == (MOST, waiting)


# -- many at once -------------------------------------------------------------------------------------


def test_async_and_sync_views_at_once_see_their_own_tokens_on_few_connections(
    server: DatabaseServer, observer: Observer
) -> None:
    with uvicorn(server, pooling=POOLING) as site:
        with observer.watching() as watch:
            # Some at a time take idle connections, many are handed those of others.
            assert_tokens_are_their_own(site, range(5), TOKEN_PATHS, at_once=MOST - 1)
            assert_tokens_are_their_own(site, range(5, 13), TOKEN_PATHS, at_once=20)
        print(server.scheme, watch, site.stats())

        assert 0 < watch.highest <= MOST
        assert watch.most <= MOST
        assert watch.connects <= MOST
        eventually(lambda: is_at_rest(site), PATIENCE)


def test_who_waits_for_a_connection_does_not_keep_the_event_loop_from_others(
    server: DatabaseServer, observer: Observer
) -> None:
    with uvicorn(server, pooling=POOLING) as site, ThreadPoolExecutor(1) as pool:
        holding = pool.submit(site.get_all, ["/hold?s=1"] * 2 * MOST)
        # It is the site itself that tells this.
        eventually(lambda: all_hold_or_wait(site, MOST), PATIENCE)
        assert observer.connections() == MOST

        answers = holding.result()
        assert {answer.status for answer in answers} == {200}, answers
        assert {int(answer.text) for answer in answers} == set(observer.numbers())
        eventually(lambda: is_at_rest(site), PATIENCE)


# -- streams ------------------------------------------------------------------------------------------


def test_a_stream_keeps_its_connection_between_its_parts_and_gives_it_back_at_its_end(
    server: DatabaseServer, observer: Observer
) -> None:
    with uvicorn(server, pooling=POOLING) as site:
        with visitor(site, "/async/stream?t=mine&s=0.05") as client:
            begin = read_until(client, b"mine")
            assert site.stats()["in_use"] == 1
            whole = begin + read_all(client)

        assert whole.count(b"mine") == 2 * ROWS
        eventually(lambda: is_at_rest(site), PATIENCE)
        assert site.stats()["checkouts"] == 1
        assert observer.connections() == 1


def test_a_stream_that_fails_gives_its_connection_back(server: DatabaseServer, observer: Observer) -> None:
    """Django sends no request_finished then: it is the end of the request's thread that tells."""
    with uvicorn(server, pooling=(1, 1)) as site:
        for _ in range(3):
            assert site.get("/async/stream?t=mine&s=0&fail=yes").status == 0
            eventually(lambda: is_at_rest(site), PATIENCE)
        stats = site.stats()
        assert (stats["checkouts"], stats["reclaimed"]) == (3, 0)
        assert [site.get("/hold?s=0").text] == [str(number) for number in observer.numbers()]


# -- clients that leave -------------------------------------------------------------------------------


def test_clients_that_leave_in_the_middle_of_a_stream_hold_nothing(
    server: DatabaseServer, observer: Observer
) -> None:
    seconds = 3
    with uvicorn(server, pooling=POOLING) as site:
        with observer.watching() as watch:
            for _ in range(2):
                with ExitStack() as visitors:
                    for _ in range(MOST):
                        path = f"/async/stream?t=mine&s={seconds}"
                        read_until(visitors.enter_context(visitor(site, path)), b"mine")
                    assert site.stats()["in_use"] == MOST
                # Long before the next part would be due.
                eventually(lambda: is_at_rest(site), seconds / 2)
            assert_tokens_are_their_own(site, range(6), TOKEN_PATHS, at_once=20)

        assert 0 < watch.highest <= MOST
        assert watch.most <= MOST
        # PostgreSQL's connections come back with an open server-side cursor, and are closed for that.
        assert watch.connects <= (3 * MOST if isinstance(server, PostgreSQL) else MOST)
        assert_every_slot_is_usable(site)
        eventually(lambda: observer.connections() == MOST, PATIENCE)


def test_connections_of_clients_that_leave_in_the_middle_of_a_statement_come_back_whole(
    server: DatabaseServer, observer: Observer
) -> None:
    """The thread finishes the statement, and request_finished waits for that; so do the visitors in line."""
    with uvicorn(server, pooling=POOLING) as site:
        with ExitStack() as visitors:
            for path in ["/async/sleep?s=0.5", "/sleep?s=0.5"] * 4:
                visitors.enter_context(visitor(site, path))
            eventually(lambda: all_hold_or_wait(site, 3), PATIENCE)
            numbers = set(observer.numbers())
        eventually(lambda: is_at_rest(site), PATIENCE)

        assert_tokens_are_their_own(site, range(4), TOKEN_PATHS)
        eventually(lambda: is_at_rest(site), PATIENCE)
        assert len(numbers) == MOST
        assert set(observer.numbers()) == numbers
        stats = site.stats()
        assert (stats["broken"], stats["reclaimed"], stats["timeouts"]) == (0, 0, 0)


# -- threads that never end, and tasks that do later ----------------------------------------------------


@pytest.mark.parametrize("scope", ["none", "request", "transaction"])
def test_threads_of_the_event_loop_hold_nothing_although_they_never_end(
    server: DatabaseServer, observer: Observer, scope: str
) -> None:
    """More of them than there are connections, twice: without a scope, and with each kind."""
    with uvicorn(server, pooling=(2, 2)) as site:
        for turn in (1, 2):
            answer = site.get(f"/async/to_thread?n=5&scope={scope}")
            assert answer.status == 200, answer
            assert {int(number) for number in answer.text.split()} <= set(observer.numbers())
            assert observer.connections() <= 2
            assert is_at_rest(site)
            assert site.stats()["checkouts"] == 5 * turn


def test_a_page_for_errors_that_queries_holds_nothing_afterwards(
    server: DatabaseServer, observer: Observer
) -> None:
    """Django makes it in a thread of the event loop's executor, outside of the request's."""
    with uvicorn(server, pooling=POOLING) as site:
        answer = site.get("/no/such/page")
        assert answer.status == 404
        assert [int(answer.text)] == observer.numbers()
        assert is_at_rest(site)


def test_a_task_that_outlives_its_request_gives_back_at_the_end_of_its_scope(
    server: DatabaseServer, observer: Observer
) -> None:
    with uvicorn(server, pooling=(1, 1)) as site:
        for number in (1, 2, 3):
            assert site.get("/async/background").text == "begun"
            eventually(lambda number=number: site.stats()["checkouts"] == number, PATIENCE)
            eventually(lambda: is_at_rest(site), PATIENCE)
        assert observer.connections() == 1


# -- beginning and end ----------------------------------------------------------------------------------


def test_a_query_at_the_start_holds_nothing_when_its_scope_is_over(
    server: DatabaseServer, observer: Observer
) -> None:
    with uvicorn(server, pooling=(1, 1), query_at_start="yes") as site:
        assert site.stats()["checkouts"] == 1
        assert is_at_rest(site)
        assert [site.get("/hold?s=0").text] == [str(number) for number in observer.numbers()]


@pytest.mark.parametrize("argument", ["--workers=2", "--reload"])
def test_a_site_that_is_imported_in_a_running_event_loop_is_pooled(
    server: DatabaseServer, observer: Observer, argument: str
) -> None:
    """There Django forbids what closes a connection, which patch() does to those from before it."""
    settings = {"apps": "django_db_pooling", "pool": {"SIZE": MOST, "MAX_OUTSTANDING": MOST}}
    arguments = [argument, f"--reload-dir={ROOT}/tests/site"]
    with uvicorn(server, pooling=None, arguments=arguments, **settings) as site:
        with observer.watching() as watch:
            assert_tokens_are_their_own(site, range(10), TOKEN_PATHS, at_once=20)
        assert watch.most <= MOST * (2 if argument == "--workers=2" else 1)
        eventually(lambda: site.stats()["checkouts"], PATIENCE)
        site.terminate()
    eventually(lambda: observer.connections() == 0, PATIENCE)


@pytest.mark.parametrize("lifespan", ["on", "off"])
def test_a_graceful_stop_answers_what_has_begun_and_leaves_no_connection(
    server: DatabaseServer, observer: Observer, lifespan: str
) -> None:
    """Also without close_all() at the end of the lifespan, but then the server isn't told goodbye."""
    manners = good_manners(server, observer) if lifespan == "on" else nullcontext()
    with manners, uvicorn(server, pooling=POOLING, arguments=[f"--lifespan={lifespan}"]) as site:
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(site.get_all, ["/hold?s=1"] * MOST)
            eventually(lambda: all_hold_or_wait(site, 0), PATIENCE)
            assert observer.connections() == MOST

            assert site.terminate() == -signal.SIGTERM

        assert {answer.status for answer in late.result()} == {200}
        eventually(lambda: observer.connections() == 0, PATIENCE)
