"""Threads that views start, under each kind of server; under gevent they are greenlets."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from tests.e2e.checks import PATIENCE, assert_tokens_are_their_own, is_at_rest
from tests.e2e.observer import Observer
from tests.e2e.sites import Site, eventually, gunicorn, runserver, uvicorn
from tests.servers import DatabaseServer

# Fewer than the threads of one view.
MOST = 3
WAYS = ["gthread", "gevent", "runserver", "uvicorn"]


def running(way: str, server: DatabaseServer) -> AbstractContextManager[Site]:
    if way == "runserver":
        return runserver(server, pool={"SIZE": MOST, "MAX_OUTSTANDING": MOST})
    if way == "uvicorn":
        return uvicorn(server, pooling=(MOST, MOST))
    return gunicorn(server, pooling=(MOST, MOST), worker=way, arguments=["--threads=12"])


@pytest.mark.parametrize("way", WAYS)
def test_threads_of_views_see_their_own_tokens_and_give_back_at_their_end_or_that_of_their_scope(
    server: DatabaseServer, observer: Observer, way: str
) -> None:
    with running(way, server) as site:
        with observer.watching() as watch:
            assert_tokens_are_their_own(site, range(12), ["/threads/of_view"], at_once=12)
            eventually(lambda: site.stats()["in_use"] == 0, PATIENCE)
            assert_tokens_are_their_own(site, range(12, 24), ["/threads/that_stay"], at_once=12)
        print(server.scheme, watch, site.stats())

        assert 0 < watch.highest <= MOST
        assert watch.most <= MOST
        assert watch.connects <= MOST
        eventually(lambda: site.stats()["in_use"] == 0, PATIENCE)
        stats = site.stats()
        assert (stats["reclaimed"], stats["broken"], stats["timeouts"]) == (0, 0, 0)


def test_async_views_under_wsgi_see_their_own_tokens(server: DatabaseServer, observer: Observer) -> None:
    """An event loop for each request, whose sync code runs in the request's own thread."""
    with running("gthread", server) as site:
        with observer.watching() as watch:
            assert_tokens_are_their_own(site, range(12), ["/async/orm", "/async/token", "/async/gather"], 12)
        assert 0 < watch.most <= MOST
        assert watch.connects <= MOST
        assert is_at_rest(site)


def test_more_threads_than_connections_take_turns(server: DatabaseServer, observer: Observer) -> None:
    settings = {"worker": "gthread", "arguments": ["--threads=4"], "pool": {"TIMEOUT": 5}}
    with gunicorn(server, pooling=(1, 1), **settings) as site:
        for path in ("/threads/of_view", "/threads/that_stay"):
            assert_tokens_are_their_own(site, range(8), [path], at_once=4)
        eventually(lambda: is_at_rest(site), PATIENCE)
        assert observer.connections() == 1
