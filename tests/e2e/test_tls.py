"""Each kind of worker speaks TLS with its database: drivers do by themselves where the server offers it."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from tests.conftest import ALL_OF_MYSQL
from tests.e2e.checks import PATIENCE, assert_tokens_are_their_own, is_at_rest
from tests.e2e.sites import Site, eventually, gunicorn, uvicorn
from tests.servers import DatabaseServer

MOST = 3
GUNICORN = {
    "sync": {"worker": "sync"},
    "gthread": {"worker": "gthread", "arguments": ["--threads=8"]},
    "gevent": {"worker": "gevent"},
    # The master has queried before gevent has patched its worker.
    "gevent, preloaded": {"worker": "gevent", "arguments": ["--preload"], "query_at_start": "yes"},
}


def running(worker: str, server: DatabaseServer) -> AbstractContextManager[Site]:
    if worker == "uvicorn":
        return uvicorn(server, pooling=(MOST, MOST))
    return gunicorn(server, pooling=(MOST, MOST), **GUNICORN[worker])


# libpq speaks TLS in C, whatever the worker is.
WAYS = [*(("mariadb", worker) for worker in (*GUNICORN, "uvicorn")), ("postgresql", "gevent")]
WAYS += [("mysql", worker) for worker in ((*GUNICORN, "uvicorn") if ALL_OF_MYSQL else ["gevent, preloaded"])]


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_all_connections_are_encrypted(way: tuple[str, str], request: pytest.FixtureRequest) -> None:
    server, worker = request.getfixturevalue(way[0]), way[1]
    with running(worker, server) as site:
        answers = site.get_all(["/tls"] * 20)
        assert {(answer.status, answer.text) for answer in answers} == {(200, "TLSv1.3")}, answers
        assert_tokens_are_their_own(site, range(20))
        eventually(lambda: is_at_rest(site), PATIENCE)
        stats = site.stats()
        assert 1 <= stats["opened"] <= MOST
        assert (stats["broken"], stats["reclaimed"], stats["timeouts"]) == (0, 0, 0)
