"""HOST_LIMIT under gunicorn: all workers together never have more, and each gets its share."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.observer import Observer
from tests.e2e.sites import Site, gunicorn
from tests.servers import DatabaseServer

LIMIT = 20
WORKERS = 8
POOL = {"HOST_LIMIT": LIMIT, "TIMEOUT": 20}


def held(site: Site) -> int:
    stats = site.stats()
    return stats["in_use"] + stats["idle"] + stats["opening"]


@pytest.mark.slow
def test_who_is_busy_gets_nearly_all_and_then_each_its_share(
    server: DatabaseServer, observer: Observer, tmp_path: Path
) -> None:
    with ExitStack() as started, observer.watching() as watch:
        sites = [
            started.enter_context(
                gunicorn(server, pooling=None, apps="django_db_pooling", pool=POOL, status_dir=str(tmp_path))
            )
            for _ in range(WORKERS)
        ]
        for site in sites:
            assert site.get("/one").status == 200
        time.sleep(1)
        busy = sites[0].load("/hold?s=0.05&pin", clients=40, seconds=60)
        began = time.monotonic()
        seen = []
        while time.monotonic() - began < 6:
            seen.append((round(time.monotonic() - began, 1), held(sites[0])))
            time.sleep(0.25)
        print(seen)
        loads = [site.load("/hold?s=0.05&pin", clients=40, seconds=60) for site in sites[1:]]
        began = time.monotonic()
        while time.monotonic() - began < 12:
            print(
                round(time.monotonic() - began, 1),
                [held(site) for site in sites],
                sites[0].stats()["host_open"],
            )
            time.sleep(0.5)
        reports = [load.end() for load in [busy, *loads]]
        print(json.dumps(reports)[:3000])
    print(watch)
    assert watch.most <= LIMIT
