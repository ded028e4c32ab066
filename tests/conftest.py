"""Fixtures for all tests: the database servers, each started once, when the first test asks for it."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.environments import CannotInstall, environment, find_python
from tests.servers import MariaDB, MySQL, PostgreSQL, Server

# What runs on MySQL besides what `make test` has of it.
ALL_OF_MYSQL = os.environ.get("TEST_MYSQL") == "all"
# Web servers and task workers besides those that `make test` starts.
ALL_SERVERS = os.environ.get("TEST_SERVERS") == "all"
# Folders whose tests run in processes of their own.
pytest_plugins = ["tests.apart.nodes"]


def require(server: type[Server]) -> None:
    """Skip the test where the server is not installed, but fail in CI: there nothing may go untested."""
    if server.find() is None:
        give_up(f"{server.__name__} is not installed on this machine; `make test` installs it")


def require_module(name: str) -> None:
    """The same for a module that is compiled on the machine."""
    if importlib.util.find_spec(name) is None:
        give_up(f"{name} is not installed; `make test` installs it where it can be compiled")


def require_python(version: str) -> Path:
    """The same for an interpreter of this version, "3.13" for example."""
    python = find_python(version)
    if python is None:
        give_up(f"Python {version} is not on this machine, neither on PATH nor pyenv's")
    assert python is not None
    return python


def require_environment(
    directory: Path, requirements: Iterable[str], base: str | Path = sys.executable
) -> Path:
    """The same for an environment with these requirements, made below the directory; its interpreter."""
    try:
        return environment(directory, requirements, base=base)
    except CannotInstall as error:
        give_up(f"{', '.join(requirements)} can't be installed: {error}")
        raise


def give_up(reason: str) -> None:
    """Skip the test, but fail in CI."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    require(MariaDB)
    with MariaDB() as server:
        yield server


@pytest.fixture(scope="session")
def mysql() -> Iterator[MySQL]:
    require(MySQL)
    with MySQL() as server:
        yield server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    require(PostgreSQL)
    with PostgreSQL() as server:
        yield server
