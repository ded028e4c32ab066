"""Channels: each of many sockets gets its own rows, and holds nothing while it is idle."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.observer import DATABASE, Observer
from tests.e2e.sites import HOST, ROOT, Site, served
from tests.servers import DatabaseServer
from tests.workers import web_servers
from tests.workers.requirements import python_with
from tests.workers.rest import MOST, assert_ends, assert_is_at_rest
from tests.workers.web_servers import WebServer

SOCKETS = 20
TOKENS = 3
# Of tests/workers/sockets.py: the most connections that each can have, and what it writes.
WAYS = {"thread": (1, 2), "threads": (MOST, 2), "orm": (1, 0)}
SECONDS = 300


@contextmanager
def sockets(site: Site, python: Path | None, way: str) -> Iterator[None]:
    """Many that have had their tokens, and are idle."""
    command = [str(python), "-m", "tests.workers.socket_client", f"ws://{HOST}:{site.port}/"]
    with subprocess.Popen(
        [*command, str(SOCKETS), way, str(TOKENS)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdout is not None
        assert json.loads(client.stdout.readline()) == []
        yield
        client.communicate()
    assert client.returncode == 0


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("row", web_servers.CHANNELS, ids=lambda row: row.name)
def test_sockets(
    row: WebServer, server: DatabaseServer, observer: Observer, settings: dict[str, Any]
) -> None:
    command = row.command.split()
    python = python_with(command, row.libraries)
    lost = observer.lost()
    with served(server, command, python=python, **settings) as site:

        def is_at_rest() -> None:
            assert_is_at_rest(site, server, observer, row.programs, lambda: site.get("/one"))

        for way, (most, written) in WAYS.items():
            before = marks(server)
            with observer.watching() as watch, sockets(site, python, way):
                is_at_rest()
            print(way, watch)
            # One more is ours, who look at the rows.
            assert most // 2 < watch.most <= most + 1
            assert marks(server) - before == SOCKETS * TOKENS * written
        is_at_rest()
        assert_ends(site, observer)
    assert not row.goodbye or observer.lost() == lost


def marks(server: DatabaseServer) -> int:
    [(count,)] = server.execute("SELECT count(*) FROM site_mark", DATABASE)
    return int(count)
