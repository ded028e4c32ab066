"""Runs tests/behaviour with each driver, in native threads and in greenlets, each in its own process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import require_module
from tests.folders import SECONDS, run_folder
from tests.servers import DatabaseServer

DRIVERS = {
    "pymysql": ("mariadb", "pymysql"),
    "mysqlclient": ("mariadb", "MySQLdb"),
    "psycopg": ("postgresql", "psycopg"),
    "psycopg2": ("postgresql", "psycopg2"),
    "sqlite3": (None, "sqlite3"),
}


@pytest.mark.timeout(SECONDS + 30)
@pytest.mark.parametrize("concurrency", ["threads", "gevent"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_behaviour(driver: str, concurrency: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    server_fixture, module = DRIVERS[driver]
    require_module(module)
    if server_fixture is None:
        url = f"sqlite://{tmp_path}/test.sqlite3"
    else:
        server: DatabaseServer = request.getfixturevalue(server_fixture)
        name = f"behaviour_{driver}_{concurrency}"
        server.create(name)
        url = server.url(name)
    run_folder("behaviour", concurrency, {"POOLING_DRIVER": driver, "POOLING_DATABASE_URL": url})
