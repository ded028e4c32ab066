"""Native threads: gunicorn's gthread worker, whose threads stay, and runserver's, one for each client."""

from __future__ import annotations

import pytest

from tests.e2e.observer import Observer
from tests.e2e.sites import eventually, gunicorn, runserver
from tests.servers import DatabaseServer

PATIENCE = 30.0


def test_20_threads_share_5_connections(server: DatabaseServer, observer: Observer) -> None:
    with gunicorn(server, pooling=(5, 5), worker="gthread", arguments=["--threads=20"]) as site:
        with observer.watching() as watch:
            report = site.load("/one", clients=40, seconds=4).report()
        print(server.scheme, report, watch)

        assert report["failed"] == {}
        assert report["answered"] == {"200": report["begun"]}
        assert report["fewest_answers_of_a_client"] > 0
        assert 0 < watch.highest <= 5
        assert watch.most <= 5
        assert watch.connects <= 5
        eventually(lambda: site.stats()["in_use"] == 0, PATIENCE)


def test_as_many_threads_as_slots_hold_a_connection_at_once_and_the_others_wait(
    server: DatabaseServer,
) -> None:
    with gunicorn(server, pooling=(5, 5), worker="gthread", arguments=["--threads=20"]) as site:
        answers = site.get_all(["/hold?s=0.5"] * 20)
        assert {answer.status for answer in answers} == {200}, answers
        assert len({answer.text for answer in answers}) == 5
        stats = site.stats()
        assert (stats["opened"], stats["timeouts"], stats["in_use"]) == (5, 0, 0)


@pytest.mark.timeout(180)
def test_under_runserver_each_thread_gives_back_when_it_ends(
    server: DatabaseServer, observer: Observer
) -> None:
    with runserver(server, pool={"SIZE": 5, "MAX_OUTSTANDING": 5}) as site:
        # The main thread has looked for migrations.
        assert site.stats()["in_use"] == 0
        with observer.watching() as watch:
            answers = site.get_all(["/one", "/atomic", "/hold?s=0.1"] * 50, at_once=15)
        print(server.scheme, watch, site.stats())

        assert {answer.status for answer in answers} == {200}, answers
        assert 0 < watch.highest <= 5
        assert watch.most <= 5
        assert watch.connects <= 10
        eventually(lambda: site.stats()["in_use"] == 0, PATIENCE)
        assert len({answer.text for answer in site.get_all(["/hold?s=1"] * 5)}) == 5
