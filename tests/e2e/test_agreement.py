"""The page, the command, Prometheus' scrape and the server, asked about the same 400 clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from tests.e2e.dashboard import pools_site
from tests.e2e.observer import observing
from tests.e2e.sites import eventually
from tests.servers import MariaDB

WORKERS = 4
MOST = 6
CLIENTS = 400
PATIENCE = 40.0


def total(overview: dict[str, Any]) -> dict[str, Any]:
    [pool] = [pool for pool in overview["pools"] if pool["alias"] == "default"]
    told: dict[str, Any] = pool["total"]
    return told


def scraped(directory: Path, name: str) -> float:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))
    value = registry.get_sample_value(f"django_db_pool_{name}", {"alias": "default"})
    return -1.0 if value is None else value


@pytest.mark.timeout(180)
def test_under_400_clients_all_say_the_same(
    mariadb: MariaDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with (
        pools_site(mariadb, pooling=(MOST, MOST), processes=WORKERS, pool={"TIMEOUT": 100}) as site,
        observing(mariadb) as observer,
    ):
        boss = site.visitor("boss")
        load = site.site.load("/one", "/hold?s=0.3", clients=CLIENTS, seconds=20)

        def command() -> dict[str, Any]:
            return total(json.loads(site.manage("db_pools", "--json").stdout))

        def is_open(told: dict[str, Any]) -> int:
            return int(told["in_use"] + told["idle"] + told["opening"])

        def agree() -> bool:
            page, asked = total(boss.overview()), command()
            shown = sum(scraped(tmp_path, name) for name in ("in_use", "idle", "opening"))
            counted = observer.connections()
            print(is_open(page), is_open(asked), shown, counted, asked["waiting"])
            return is_open(page) == is_open(asked) == shown == counted == WORKERS * MOST

        try:
            eventually(lambda: total(boss.overview())["waiting"] > CLIENTS / 2, PATIENCE)
            eventually(agree, PATIENCE)
        finally:
            report = load.report()
        assert report["failed"] == {}
        eventually(lambda: command()["in_use"] == scraped(tmp_path, "in_use") == 0, PATIENCE)

        # Prometheus also counts what the commands have done that prepared the site.
        others = {
            name: scraped(tmp_path, f"{name}_total") - command()[name] for name in ("checkouts", "opened")
        }
        site.site.get_all(["/one"] * 40)

        def count_alike() -> bool:
            asked = command()
            return asked["checkouts"] >= report["answered"]["200"] + 40 and all(
                scraped(tmp_path, f"{name}_total") - asked[name] == more for name, more in others.items()
            )

        eventually(count_alike, PATIENCE)
