"""A planned switch from one server to another: pause, switch, resume. Nobody fails, and no write is lost."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.sites import Site, eventually, gunicorn, url_through
from tests.e2e.test_failover import WAYS, WRITE, Pair, marks, pair, servers, sessions  # noqa: F401
from tests.proxy import TcpProxy
from tests.servers import DatabaseServer

pytestmark = pytest.mark.timeout(180)

PATIENCE = 30.0
LONG = 100.0
WORKERS = 2
MOST = 4
CLIENTS = 24


@pytest.fixture
def proxy(pair: Pair) -> Iterator[TcpProxy]:  # noqa: F811
    with TcpProxy(pair.first.host, pair.first.port) as proxy:
        yield proxy


@contextmanager
def switched_site(proxy: TcpProxy, server: DatabaseServer, way: str, status: Path) -> Iterator[Site]:
    worker, drivers, arguments = WAYS[way]
    settings: dict[str, Any] = {"apps": "django_db_pooling", "status_dir": str(status)}
    settings |= {"driver": drivers[server.scheme], "database_url": url_through(proxy, server)}
    arguments = [*arguments, f"--workers={WORKERS}"]
    with gunicorn(
        server, pooling=(MOST, MOST), worker=worker, arguments=arguments, pool={"TIMEOUT": 50}, **settings
    ) as site:
        site.environment["SITE_STATUS_DIR"] = str(status)
        yield site


def order(site: Site, *arguments: str, status: int = 0) -> str:
    done = site.manage("db_pools", *arguments)
    assert done.returncode == status, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def told(site: Site) -> dict[str, Any]:
    seen = json.loads(order(site, "--json"))
    pool: dict[str, Any] = next(pool for pool in seen["pools"] if pool["alias"] == "default")
    return pool


def all_workers_report(site: Site) -> bool:
    site.get_all(["/hold?s=0.2"] * 60)
    done = site.manage("db_pools", "--json")
    return done.returncode == 0 and len(json.loads(done.stdout)["workers"]) == WORKERS


@pytest.mark.parametrize("way", WAYS)
def test_a_planned_switch_under_load_fails_nobody(
    pair: Pair,  # noqa: F811
    proxy: TcpProxy,
    way: str,
    tmp_path: Path,
) -> None:
    first, second = pair
    with switched_site(proxy, first, way, tmp_path) as site:
        eventually(lambda: all_workers_report(site), PATIENCE)
        load = site.load(f"{WRITE}TOKEN", "/token?t=TOKEN", clients=CLIENTS, seconds=LONG)
        eventually(lambda: len(marks(first)) > 50, PATIENCE)

        began = time.monotonic()
        said = order(site, "--pause", "40", "--wait", "--alias", "default")
        assert "default: paused, nothing is in use" in said
        assert sessions(first) == 0
        before = marks(first)
        pool = told(site)
        assert pool["pause"]["processes"] == WORKERS
        assert all(member["stats"]["paused"] > 0 for member in pool["members"])
        assert f"in {WORKERS} of {WORKERS}" in order(site)
        assert marks(first) == before
        proxy.lead_to(second.host, second.port)
        order(site, "--resume")
        eventually(lambda: len(marks(second)) > 50, PATIENCE)
        report = load.end()
        print(first.scheme, way, f"paused for {time.monotonic() - began:.1f} s", report)

        assert (report["failed"], report["wrong"]) == ({}, [])
        assert report["begun"] == report["answered"]["200"]
        assert sessions(first) == 0 and marks(first) == before
        assert set(before.values()) == set(marks(second).values()) == {2}
        assert not before.keys() & marks(second).keys()
        # Every second request of each client has written.
        assert abs(len(before) + len(marks(second)) - report["begun"] / 2) <= CLIENTS
        eventually(lambda: told(site)["pause"] is None, PATIENCE)


def test_who_is_at_work_for_too_long_is_named_and_the_pause_is_over(
    pair: Pair,  # noqa: F811
    proxy: TcpProxy,
    tmp_path: Path,
) -> None:
    first, _ = pair
    with switched_site(proxy, first, "gevent", tmp_path) as site:
        eventually(lambda: all_workers_report(site), PATIENCE)
        load = site.load("/hold?s=20", clients=1, seconds=1.0)
        eventually(lambda: told(site)["total"]["in_use"] == 1, PATIENCE)
        said = order(site, "--pause", "4", "--wait", status=1)
        assert "Still in use after 4 s: default: 1 in use" in said and "/hold" in said
        assert site.get("/one").status == 200
        assert load.report()["answered"] == {"200": 1}


def test_a_worker_that_starts_meanwhile_joins(
    pair: Pair,  # noqa: F811
    proxy: TcpProxy,
    tmp_path: Path,
) -> None:
    first, _ = pair
    with switched_site(proxy, first, "gevent", tmp_path) as site:
        eventually(lambda: all_workers_report(site), PATIENCE)
        order(site, "--pause", "60", "--wait")
        old = {worker["pid"] for worker in json.loads(order(site, "--json"))["workers"]}
        # gunicorn starts others in their place.
        site.process.send_signal(signal.SIGHUP)
        loads = []

        def is_joined() -> bool:
            # Whose of the workers they become is up to chance.
            loads.append(site.load("/one", clients=4, seconds=0.5))
            time.sleep(1.0)
            new = [member for member in told(site)["members"] if member["pid"] not in old]
            return any(member["stats"]["waiting"] and member["stats"]["paused"] for member in new)

        eventually(is_joined, PATIENCE)
        assert sessions(first) == 0
        order(site, "--resume")
        for load in loads:
            report = load.report()
            assert report["failed"] == {} and set(report["answered"]) == {"200"}


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--pause", "0"], 2, "must be seconds, above 0 and up to 3600"),
        (["--pause", "x"], 2, "must be seconds, above 0 and up to 3600"),
        (["--pause", "--alias", "nowhere"], 1, "The connection 'nowhere' doesn't exist."),
        (["--wait"], 1, "--wait goes with --pause."),
        (["--resume", "--wait"], 1, "--wait goes with --pause."),
        (["--alias", "default"], 1, "--alias goes with --pause"),
        (["--workers", "4"], 1, "--hosts and --workers go with --plan."),
        (["--pause", "--resume"], 2, "not allowed with argument"),
        (["--recycle"], 0, "recycle default: in 2 processes within a second"),
        (["--close-idle", "--alias", "default"], 0, "close-idle default: in 2 processes within a second"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_the_command_takes(one_site: Site, arguments: list[str], status: int, says: str) -> None:
    assert says in order(one_site, *arguments, status=status)


@pytest.fixture(scope="module")
def one_site(
    servers: Pair,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    first = servers.first
    with (
        TcpProxy(first.host, first.port) as proxy,
        switched_site(proxy, first, "gevent", tmp_path_factory.mktemp("status")) as site,
    ):
        eventually(lambda: all_workers_report(site), PATIENCE)
        yield site
