"""Servers that take 50 connections, with the test site's table, and what they say about their clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import ALL_OF_MYSQL, require
from tests.e2e.observer import DATABASE, Observer, observing
from tests.e2e.sites import eventually
from tests.servers import DatabaseServer, MariaDB, MySQL, PostgreSQL

MAX_CONNECTIONS = 50
ROWS = 20
PATIENCE = 30.0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than 15 seconds; leave out with -m 'not slow'")


def create_rows(server: DatabaseServer) -> None:
    server.create(DATABASE)
    rows = ", ".join(f"({number}, 'row {number}', 0)" for number in range(1, ROWS + 1))
    server.execute(
        "CREATE TABLE site_row"
        " (id INTEGER PRIMARY KEY, text VARCHAR(100) NOT NULL, counter INTEGER NOT NULL);"
        f" INSERT INTO site_row (id, text, counter) VALUES {rows}",
        DATABASE,
    )
    serial = {"mysql": "BIGINT AUTO_INCREMENT", "postgres": "BIGSERIAL"}[server.scheme]
    server.execute(
        f"CREATE TABLE site_mark (id {serial} PRIMARY KEY, token VARCHAR(100) NOT NULL, part INTEGER);"
        " CREATE INDEX site_mark_token ON site_mark (token)",
        DATABASE,
    )


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    require(MariaDB)
    with MariaDB(MAX_CONNECTIONS) as server:
        create_rows(server)
        yield server


@pytest.fixture(scope="session")
def mysql() -> Iterator[MySQL]:
    require(MySQL)
    with MySQL(MAX_CONNECTIONS) as server:
        create_rows(server)
        yield server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    require(PostgreSQL)
    with PostgreSQL(MAX_CONNECTIONS, ["-c", "log_connections=on", "-c", "log_disconnections=on"]) as server:
        create_rows(server)
        yield server


@pytest.fixture(params=["mariadb", *(["mysql"] if ALL_OF_MYSQL else []), "postgresql"])
def server(request: pytest.FixtureRequest) -> DatabaseServer:
    """Each of the servers in turn."""
    server: DatabaseServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def observer(request: pytest.FixtureRequest) -> Iterator[Observer]:
    """Of the server that the test uses, on which nobody is left from another test."""
    name = next(name for name in ("server", "mariadb", "mysql", "postgresql") if name in request.fixturenames)
    with observing(request.getfixturevalue(name)) as observer:
        eventually(lambda: observer.connections() == 0, PATIENCE)
        yield observer
