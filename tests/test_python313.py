"""Signals whose handlers raise, in Python 3.13, with Django on SQLite and PostgreSQL, and with LDAP.

What 3.13 does there no older Python does: see ``tests/unit/unguarded_loops.py``. The pool alone is struck in
``tests/unit/test_pool_signals.py``. The environment is made where POOLING_ENVIRONMENTS says or else inside of
this one, and kept.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.conftest import require, require_environment, require_python
from tests.folders import run_folder
from tests.servers import DatabaseServer
from tests.slapd import Slapd

SECONDS = 300
# Of all tests there, of which few run.
REQUIREMENTS = [
    *("Django<6", "hypothesis", "opentelemetry-sdk", "psycopg[binary]"),
    *("pytest", "pytest-timeout", "python-ldap"),
]
SELECTION = "test_signals"


@pytest.fixture(scope="module")
def python313() -> Path:
    place = Path(os.environ.get("POOLING_ENVIRONMENTS") or Path(sys.prefix, "environments"))
    return require_environment(place, REQUIREMENTS, require_python("3.13"))


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("driver", ["sqlite3", "psycopg"])
def test_databases(driver: str, python313: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/test.sqlite3"
    if driver == "psycopg":
        server: DatabaseServer = request.getfixturevalue("postgresql")
        server.create("python313")
        url = server.url("python313")
    settings = {"POOLING_DRIVER": driver, "POOLING_DATABASE_URL": url, "PYTEST_ADDOPTS": f"-k {SELECTION}"}
    run_folder("behaviour", "threads", settings, python313)


@pytest.mark.timeout(SECONDS)
def test_directory(python313: Path) -> None:
    require(Slapd)
    run_folder("ldap_manager", "threads", {"PYTEST_ADDOPTS": f"-k {SELECTION}"}, python313)
