"""The page, the command, Prometheus' scrape and the server, asked about the same 400 clients."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.dashboard import pools_site
from tests.e2e.observer import observing
from tests.e2e.sites import Site, eventually
from tests.servers import MariaDB

WORKERS = 4
MOST = 6
CLIENTS = 400
PATIENCE = 40.0


def total(overview: dict[str, Any]) -> dict[str, Any]:
    [pool] = [pool for pool in overview["pools"] if pool["alias"] == "default"]
    told: dict[str, Any] = pool["total"]
    return told


def scraped(site: Site, name: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(site.get("/metrics").text)
        for sample in family.samples
        if sample.name == f"django_db_pool_{name}" and sample.labels["alias"] == "default"
    )


@pytest.mark.timeout(180)
def test_under_400_clients_all_say_the_same(mariadb: MariaDB) -> None:
    with (
        pools_site(mariadb, pooling=(MOST, MOST), processes=WORKERS, pool={"TIMEOUT": 100}) as site,
        observing(mariadb) as observer,
    ):
        boss = site.visitor("boss")
        load = site.site.load("/one", "/hold?s=0.3", clients=CLIENTS, seconds=20)

        def command() -> dict[str, Any]:
            return total(json.loads(site.manage("db_pools", "--json").stdout))

        def is_open(told: dict[str, Any]) -> int:
            return int(told["in_use"] + told["idle"] + told["opening"] + told["ending"])

        def agree() -> bool:
            page, asked = total(boss.overview()), command()
            shown = sum(scraped(site.site, name) for name in ("in_use", "idle", "opening", "ending"))
            counted = observer.connections()
            print(is_open(page), is_open(asked), shown, counted, asked["waiting"])
            return is_open(page) == is_open(asked) == shown == counted == WORKERS * MOST

        try:
            eventually(lambda: total(boss.overview())["waiting"] > CLIENTS / 2, PATIENCE)
            eventually(agree, PATIENCE)
        finally:
            report = load.report()
        assert report["failed"] == {}
        eventually(lambda: command()["in_use"] == scraped(site.site, "in_use") == 0, PATIENCE)

        site.site.get_all(["/one"] * 40)

        def count_alike() -> bool:
            asked = command()
            return asked["checkouts"] >= report["answered"]["200"] + 40 and all(
                scraped(site.site, f"{name}_total") == asked[name] for name in ("checkouts", "opened")
            )

        eventually(count_alike, PATIENCE)
