"""The example site's demo, from the command line to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import require
from tests.servers import MariaDB

DEMO = Path(__file__).parents[2] / "example_project" / "demo.py"
SECONDS = 120


def run_demo(**variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "PORT")}
    run = subprocess.run(
        [sys.executable, str(DEMO), "--once"],
        env=environment | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    print(run.stdout, run.stderr)
    assert run.returncode == 0
    return run.stdout


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 30)
def test_on_sqlite(tmp_path: Path) -> None:
    output = run_demo(DATABASE_URL=f"sqlite:///{tmp_path / 'bank.sqlite3'}")
    assert " 0 failed" in output
    assert " checkouts on " in output


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 30)
def test_on_the_mariadb_that_it_starts_itself() -> None:
    require(MariaDB)
    output = run_demo()
    assert "a private MariaDB" in output
    assert " 0 failed" in output
    assert " checkouts on " in output


@pytest.mark.timeout(SECONDS + 30)
@pytest.mark.parametrize("server", ["sqlite", "mariadb", "postgresql"])
def test_the_sites_own_tests_pass(server: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = (
        f"sqlite:///{tmp_path / 'bank.sqlite3'}"
        if server == "sqlite"
        else request.getfixturevalue(server).url("bank")
    )
    run = subprocess.run(
        [sys.executable, "manage.py", "test", "bank"],
        cwd=DEMO.parent,
        env=os.environ | {"DATABASE_URL": url, "MYSQL_DRIVER": "pymysql"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    print(run.stdout, run.stderr)
    assert run.returncode == 0
    assert "\nOK" in run.stderr
