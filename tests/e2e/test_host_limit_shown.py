"""HOST_LIMIT as operators see it: page, command and metrics of two workers, and the server's count."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.dashboard import PoolsSite, Visitor, pools_site
from tests.e2e.observer import Observer, observing
from tests.e2e.sites import eventually
from tests.servers import MariaDB

LIMIT = 6
WORKERS = 2
PATIENCE = 30.0
METRIC = re.compile(
    r'^django_db_pool_host_(limit|open)\{alias="default",pid="(\d+)"\} ([\d.]+)$', re.MULTILINE
)


@pytest.fixture(scope="module")
def site(mariadb: MariaDB) -> Iterator[PoolsSite]:
    pool = {"HOST_LIMIT": LIMIT, "TIMEOUT": 20}
    with pools_site(mariadb, pooling=(2, LIMIT), processes=WORKERS, pool=pool) as site:
        yield site


@pytest.fixture
def observer(mariadb: MariaDB) -> Iterator[Observer]:
    with observing(mariadb) as observer:
        yield observer


@pytest.fixture
def boss(site: PoolsSite) -> Visitor:
    """Who has seen the page of both workers, and may see it while no connection is free."""
    boss = site.visitor("boss")

    def both_report() -> bool:
        site.site.get_all(["/hold?s=0.2"] * 8)
        assert boss.ask("/pools/").status == 200
        return len(boss.overview()["workers"]) == WORKERS

    eventually(both_report, PATIENCE)
    return boss


def default(overview: dict[str, Any]) -> dict[str, Any]:
    [pool] = overview["pools"]
    return dict(pool)


def told(pool: dict[str, Any]) -> list[int]:
    """The limit, what is open, and what could be checked out."""
    total = pool["total"]
    assert total["max_outstanding"] == total["host_limit"]
    return [total["host_limit"], total["host_open"], pool["free"]]


@pytest.mark.slow
def test_everything_tells_what_the_server_counts(site: PoolsSite, boss: Visitor, observer: Observer) -> None:
    load = site.site.load("/hold?s=15", clients=2 * LIMIT, seconds=1.0)
    try:

        def all_are_taken() -> bool:
            page, command = (
                default(boss.overview()),
                default(json.loads(site.manage("db_pools", "--json").stdout)),
            )
            print(told(page), told(command), observer.connections())
            return told(page) == told(command) == [LIMIT, LIMIT, 0] and observer.connections() == LIMIT

        eventually(all_are_taken, 12.0)
        said = f"this host: {LIMIT} open of {LIMIT} (HOST_LIMIT)"
        table = site.manage("db_pools").stdout
        assert f"\n  {said}\n" in table
        assert re.search(rf"^  total .* 0 +{LIMIT} +\S+$", table, re.MULTILINE)
        page = boss.ask("/pools/").text
        assert f"{WORKERS} processes, each with size 2 and max_outstanding {LIMIT}; {said}" in page
        assert "not opened</dt><dd>0<" in page
        found = METRIC.findall(site.site.get("/metrics").text)
        assert len({pid for _, pid, _ in found}) == WORKERS
        assert len(found) == 2 * WORKERS
        assert {value for _, _, value in found} == {f"{LIMIT}.0"}
    finally:
        load.report()

    def all_are_free() -> bool:
        seen = default(json.loads(site.manage("db_pools", "--json").stdout))
        opened = {
            float(value)
            for name, _, value in METRIC.findall(site.site.get("/metrics").text)
            if name == "open"
        }
        count = observer.connections()
        return told(seen) == [LIMIT, count, LIMIT] and opened == {count}

    eventually(all_are_free, PATIENCE)


def test_a_plan_has_the_limit_once_for_each_host(site: PoolsSite, boss: Visitor, tmp_path: Path) -> None:
    done = site.manage("db_pools", "--plan", "--hosts=8")
    assert done.returncode == 0, done
    assert f"  each host     default {LIMIT} (HOST_LIMIT, less than {WORKERS} x {LIMIT})\n" in done.stdout
    assert f"  total         8 x {LIMIT} = 48 (hosts x HOST_LIMIT)\n" in done.stdout
    done = site.manage("db_pools", "--plan", "--hosts=9")
    assert done.returncode == 1, done
    assert "  does not fit  4 too many; 5 per host would fit\n" in done.stdout
    # Nobody has to be there for that.
    nobody = PoolsSite(site.site, site.environment | {"SITE_STATUS_DIR": str(tmp_path)})
    done = nobody.manage("db_pools", "--plan")
    assert done.returncode == 0, done
    assert f"  each host     default {LIMIT} (from settings) (HOST_LIMIT)\n" in done.stdout
