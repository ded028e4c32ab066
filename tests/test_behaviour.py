"""Runs tests/behaviour with each driver, in native threads and in greenlets, each in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import require_module
from tests.servers import DatabaseServer

ROOT = Path(__file__).parent.parent
DRIVERS = {
    "pymysql": ("mariadb", "pymysql"),
    "mysqlclient": ("mariadb", "MySQLdb"),
    "psycopg": ("postgresql", "psycopg"),
    "psycopg2": ("postgresql", "psycopg2"),
    "sqlite3": (None, "sqlite3"),
}
SECONDS = 600


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
    environment = os.environ | {
        "POOLING_DRIVER": driver,
        "POOLING_DATABASE_URL": url,
        "POOLING_GEVENT": "1" if concurrency == "gevent" else "",
    }
    command = [sys.executable, "-m", "tests.behaviour", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(
        command, cwd=ROOT, env=environment, timeout=SECONDS, text=True, capture_output=True, check=False
    )
    print(run.stdout, run.stderr)
    assert run.returncode == 0
