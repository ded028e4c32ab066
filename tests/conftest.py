"""Fixtures for all tests: the database servers, each started once, when the first test asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.servers import MariaDB, PostgreSQL, Server


def require(server: type[Server]) -> None:
    """Skip the test where the server is not installed, but fail in CI: there nothing may go untested."""
    if server.find() is None:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"{server.__name__} is not installed on this machine; `make test` as root installs it")


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    require(MariaDB)
    with MariaDB() as server:
        yield server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    require(PostgreSQL)
    with PostgreSQL() as server:
        yield server
