"""The servers and the site are those of tests/e2e."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ALL_SERVERS, require
from tests.e2e.conftest import mariadb as mariadb
from tests.e2e.conftest import observer as observer
from tests.e2e.conftest import postgresql as postgresql
from tests.e2e.observer import DATABASE
from tests.servers import DatabaseServer, Redis
from tests.workers.rest import POOL

# `make test` starts some servers as their tables say, and none of these.
collect_ignore = [] if ALL_SERVERS else ["test_celery.py", "test_sockets.py", "test_time_limits.py"]
# The scope that is left to try where each server has one.
SCOPES = {"mariadb": "request", "postgresql": "transaction"}


@pytest.fixture(params=SCOPES)
def server(request: pytest.FixtureRequest) -> DatabaseServer:
    """Each of the servers in turn."""
    server: DatabaseServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def settings(server: DatabaseServer, tmp_path: Path) -> dict[str, Any]:
    """Of a site with a small pool, whose rows are not there yet."""
    server.execute("DELETE FROM site_mark", DATABASE)
    status = tmp_path / "status"
    status.mkdir(mode=0o700)
    return {"pool": POOL | {"SCOPE": SCOPES[type(server).__name__.lower()]}, "status_dir": str(status)}


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    require(Redis)
    with Redis() as server:
        yield server
