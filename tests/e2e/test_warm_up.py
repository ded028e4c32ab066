"""The recipes of the documentation for warm-up, under the servers that they are for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.observer import Observer
from tests.e2e.sites import Site, eventually, gunicorn, url_through, uvicorn
from tests.proxy import TcpProxy
from tests.servers import DatabaseServer, PostgreSQL

PATIENCE = 30.0
MOST = 4
SECOND = "e2e_second"

CONFIG = f"""
def post_worker_init(worker):
    from django_db_pooling import pooling

    pooling.warm_up(connections={MOST})
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gunicorn.conf.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def proxy(postgresql: PostgreSQL) -> Iterator[TcpProxy]:
    with TcpProxy(postgresql.host, postgresql.port) as proxy:
        yield proxy


def pools(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(site.get("/pool.json").text)["pools"]
    return found


def assert_warm(site: Site, observer: Observer) -> None:
    stats = pools(site)["default"]
    assert (stats["opened"], stats["idle"], stats["checkouts"]) == (MOST, MOST, 0)
    numbers = {str(number) for number in observer.numbers()}
    assert len(numbers) == MOST
    assert {answer.text for answer in site.get_all(["/hold?s=0.5"] * MOST)} == numbers
    assert pools(site)["default"]["opened"] == MOST


@pytest.mark.parametrize("arguments", [[], ["--preload"]], ids=["alone", "preload"])
@pytest.mark.parametrize("worker", ["gevent", "gthread"])
def test_gunicorns_post_worker_init_opens_connections_that_the_worker_can_use(
    server: DatabaseServer, observer: Observer, config: Path, worker: str, arguments: list[str]
) -> None:
    arguments = [f"--config={config}", *arguments, *(["--threads=8"] if worker == "gthread" else [])]
    with gunicorn(server, pooling=(MOST, MOST), worker=worker, arguments=arguments) as site:
        assert_warm(site, observer)


def test_so_does_an_asgi_lifespan(server: DatabaseServer, observer: Observer) -> None:
    with uvicorn(server, pooling=(MOST, MOST), warm_up=MOST) as site:
        assert_warm(site, observer)


@pytest.mark.parametrize("worker", ["gevent", "gthread"])
def test_a_readiness_probe_says_yes_once_a_connection_can_be_opened(
    postgresql: PostgreSQL, proxy: TcpProxy, worker: str
) -> None:
    url = url_through(proxy, postgresql)
    arguments = ["--threads=8"] if worker == "gthread" else []
    pool = {"CONNECT_RETRY": 0.5}
    with gunicorn(
        postgresql, pooling=(MOST, MOST), worker=worker, arguments=arguments, database_url=url, pool=pool
    ) as site:
        proxy.refuse()
        answer = site.get("/warm")
        assert (answer.status, answer.text) == (503, "OperationalError")
        proxy.resume()
        assert site.get("/warm").text == "yes"
        assert site.get("/warm").text == "yes"
        stats = site.stats()
        assert (stats["opened"], stats["idle"]) == (1, 1)


@pytest.mark.parametrize("worker", ["gevent", "gthread"])
def test_from_a_workers_first_request_on_min_size_is_open_of_each_database(
    server: DatabaseServer, observer: Observer, worker: str
) -> None:
    server.create(SECOND)
    pool = {"SIZE": MOST, "MAX_OUTSTANDING": MOST, "MIN_SIZE": 2}
    arguments = ["--preload", *(["--threads=8"] if worker == "gthread" else [])]
    with gunicorn(
        server, pooling=(MOST, MOST), worker=worker, arguments=arguments, pool=pool, second=SECOND
    ) as site:
        # The first request was one without a query.
        eventually(lambda: [stats["idle"] for stats in pools(site).values()] == [2, 2], PATIENCE)
        assert [stats["checkouts"] for stats in pools(site).values()] == [0, 0]
        # The master has none.
        assert observer.connections() == 4
