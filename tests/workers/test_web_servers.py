"""Each web server with the same site under load: right rows, few connections, and none that stays."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import ALL_SERVERS
from tests.e2e.checks import assert_tokens_are_their_own
from tests.e2e.observer import Observer
from tests.e2e.sites import served
from tests.servers import DatabaseServer
from tests.workers import web_servers
from tests.workers.requirements import python_with
from tests.workers.rest import MOST, assert_ends, assert_is_at_rest
from tests.workers.web_servers import WebServer

PATHS = ["/token", "/transaction"]
ASYNC_PATHS = ["/async/orm", "/async/token"]
AT_ONCE = 12
# Tokens at a time, each on all paths.
FEW = 5
SECONDS = 300
TABLE = [row for row in web_servers.TABLE if row.short or ALL_SERVERS]


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_a_web_server(
    row: WebServer, server: DatabaseServer, observer: Observer, settings: dict[str, Any]
) -> None:
    command = row.command.split()
    python = python_with(command, row.libraries)
    paths = PATHS if row.is_green else PATHS + ASYNC_PATHS
    # Old processes and new ones are there together for a while.
    generations = 3 if row.replaces else 2 if row.reload else 1
    with served(server, command, python=python, **settings) as site:
        numbers = itertools.count(0, FEW)

        def ask(count: int = FEW) -> None:
            first = next(numbers)
            assert_tokens_are_their_own(site, range(first, first + count), paths, AT_ONCE)

        lost = observer.lost()
        with observer.watching() as watch, ThreadPoolExecutor(1) as executor:
            asking = [executor.submit(ask) for _ in range(5 if generations > 1 else 2)]
            if row.reload:
                asking[0].result()
                os.kill(site.pid, row.reload)
            for each in asking:
                each.result()
        print(watch)
        assert 0 < watch.most <= generations * row.processes * MOST
        assert_is_at_rest(site, server, observer, row.programs, lambda: ask(1))
        assert_ends(site, observer)
    assert not row.goodbye or observer.lost() == lost
