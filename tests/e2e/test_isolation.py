"""By attack, on a whole site: 500 visitors at once change their sessions, and none sees another's."""

from __future__ import annotations

import json

import pytest

from tests.e2e.checks import assert_every_slot_is_usable, is_at_rest
from tests.e2e.observer import Observer
from tests.e2e.sites import Site, eventually, gunicorn
from tests.servers import DatabaseServer
from tests.ways import WAYS

CLIENTS = 500
SECONDS = 5.0
MOST = 8
PATIENCE = 30.0
SCOPES = ["request", "transaction"]
# What happens to visitors who leave, or whose request is killed.
AS_MEANT = {"left", "no answer", "reset"}
# gunicorn's own page, for what is no Exception.
TIMED_OUT = "<h1><p>Internal Server Error</p></h1>"


def counts(site: Site) -> dict[str, int]:
    answer = site.get("/attack/counts.json")
    assert answer.status == 200, answer
    found: dict[str, int] = json.loads(answer.text)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("scope", SCOPES)
def test_nobody_sees_what_500_others_do_to_their_sessions(
    server: DatabaseServer, observer: Observer, scope: str
) -> None:
    pool = {"SCOPE": scope, "TIMEOUT": 60}
    with gunicorn(server, pooling=(MOST, MOST), pool=pool, arguments=["--keep-alive=1"]) as site:
        new = site.get("/attack/as_new")
        assert new.status == 200, new
        load = site.load("/attack?end=any", clients=CLIENTS, seconds=SECONDS, leave=0.1)
        report = load.report()
        done = counts(site)
        print(server.scheme, scope, report, done)

        assert all("Boom" in error or TIMED_OUT in error for error in report["errors"]), report["errors"]
        assert report["answered"].keys() == {"200", "500"}
        assert report["failed"].keys() <= AS_MEANT
        assert report["begun"] >= CLIENTS
        assert all(done.get(way.look) for way in WAYS[type(server).__name__.lower()]), done
        assert all(done[end] for end in ("boom", "timeout", "caught", "kill", "finished"))

        eventually(lambda: is_at_rest(site), PATIENCE)
        assert_every_slot_is_usable(site)
        for _ in range(2 * MOST):
            assert site.get("/attack/as_new") == new
        eventually(lambda: observer.connections() == site.stats()["idle"], PATIENCE)
        stats = site.stats()
        print(stats)
        assert stats["resets"] > 0
        assert stats["broken"] > 0
        assert stats["timeouts"] == 0


@pytest.mark.parametrize("scope", SCOPES)
def test_where_nothing_is_reset_the_attack_is_noticed(server: DatabaseServer, scope: str) -> None:
    """Otherwise the test above would say nothing."""
    with gunicorn(server, pooling=(2, 2), pool={"SCOPE": scope, "RESET": "never"}) as site:
        assert site.get("/attack/as_new").status == 200
        report = site.load("/attack?end=well", clients=20, seconds=1.0).report()
        assert any(error.startswith("Crossing") for error in report["errors"]), report
