"""400 visitors at once on a server that takes 50 connections: pooled it is no trouble, else it fails."""

from __future__ import annotations

import pytest

from tests.e2e.observer import Observer
from tests.e2e.sites import eventually, gunicorn
from tests.servers import DatabaseServer

CLIENTS = 400
SECONDS = 20
UNPATCHED_SECONDS = 3
SIZE = 10
MAX_OUTSTANDING = 20
FULL = {"mysql": "Too many connections", "postgres": "too many clients already"}
# An excess connection is closed after 10 s unused; the rest is for a busy machine.
REST_SECONDS = 40
# gunicorn drops visitors whose request it hasn't read after --keep-alive seconds (2), should it be that busy.
ARGUMENTS = ["--workers=1", "--keep-alive=60"]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_pooled_no_request_of_400_clients_fails(server: DatabaseServer, observer: Observer) -> None:
    with gunicorn(server, pooling=(SIZE, MAX_OUTSTANDING), arguments=ARGUMENTS) as site:
        with observer.watching() as watch:
            report = site.load("/one", clients=CLIENTS, seconds=SECONDS).report()
        print(server.scheme, report, watch)

        assert report["failed"] == {}
        assert report["answered"] == {"200": report["begun"]}
        assert report["fewest_answers_of_a_client"] > 0
        assert watch.samples > SECONDS
        assert 0 < watch.highest <= MAX_OUTSTANDING
        assert 0 < watch.most <= MAX_OUTSTANDING
        assert watch.connects < 100

        eventually(lambda: site.stats()["idle"] <= SIZE, REST_SECONDS)
        stats = site.stats()
        assert (stats["idle"], stats["in_use"], stats["opening"], stats["waiting"]) == (SIZE, 0, 0, 0)
        eventually(lambda: observer.connections() == SIZE, REST_SECONDS)
        assert (stats["timeouts"], stats["reclaimed"], stats["broken"]) == (0, 0, 0)


@pytest.mark.timeout(180)
def test_unpatched_the_same_load_is_refused_by_the_server(server: DatabaseServer) -> None:
    with gunicorn(server, pooling=None, arguments=ARGUMENTS, conn_max_age=60) as site:
        report = site.load("/one", clients=CLIENTS, seconds=UNPATCHED_SECONDS).report()
        print(server.scheme, report)

        assert report["answered"].get("500", 0) > 0
        assert any(FULL[server.scheme] in error for error in report["errors"])


@pytest.mark.timeout(120)
def test_connections_are_as_few_as_min_size_when_nobody_has_come_for_idle_timeout(
    server: DatabaseServer, observer: Observer
) -> None:
    with gunicorn(server, pooling=(3, 6), pool={"IDLE_TIMEOUT": 2, "MIN_SIZE": 1}) as site:
        assert {answer.status for answer in site.get_all(["/hold?s=1"] * 6)} == {200}
        assert site.stats()["opened"] > 1
        eventually(lambda: site.stats()["idle"] == 1, REST_SECONDS)
        eventually(lambda: observer.connections() == 1, REST_SECONDS)
        assert site.stats()["in_use"] == 0


@pytest.mark.timeout(120)
def test_visitors_who_keep_their_connection_alive_hold_none_between_requests(
    server: DatabaseServer, observer: Observer
) -> None:
    with gunicorn(server, pooling=(2, 4), arguments=ARGUMENTS) as site:
        with observer.watching() as watch:
            report = site.load("/atomic", clients=100, seconds=3, keep_alive=True).report()
        print(server.scheme, report, watch)

        assert report["failed"] == {}
        assert report["answered"] == {"200": report["begun"]}
        assert max(watch.highest, watch.most) <= 4
        eventually(lambda: site.stats()["in_use"] == 0, REST_SECONDS)
