"""Web servers that kill a worker whose request takes too long: nothing of it stays, the next one is right."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.checks import assert_tokens_are_their_own
from tests.e2e.observer import DATABASE, Observer
from tests.e2e.sites import eventually, served
from tests.servers import DatabaseServer
from tests.soak import OPEN_TRANSACTIONS
from tests.workers import web_servers
from tests.workers.requirements import python_with
from tests.workers.rest import PATIENCE, assert_ends, assert_is_at_rest, reports
from tests.workers.web_servers import WebServer

PATHS = ["/token", "/transaction"]
AT_ONCE = 6
FEW = 5
# Longer than all that the test does.
FOR_EVER = 600
SECONDS = 300


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("row", web_servers.TIME_LIMITS, ids=lambda row: row.name)
def test_a_request_that_takes_too_long(
    row: WebServer, server: DatabaseServer, observer: Observer, settings: dict[str, Any]
) -> None:
    command = row.command.split()
    python = python_with(command, row.libraries)
    numbers = itertools.count(0, FEW)
    with served(server, command, python=python, **settings) as site:

        def ask() -> None:
            first = next(numbers)
            assert_tokens_are_their_own(site, range(first, first + FEW), PATHS, AT_ONCE)

        def transactions() -> list[tuple[str, ...]]:
            return server.execute(OPEN_TRANSACTIONS[server.scheme], DATABASE)

        lost = observer.lost()
        assert_is_at_rest(site, server, observer, row.programs, ask)
        before, connections = set(reports(site)), set(observer.numbers())
        # A worker of greenlets is killed where one lets no other have its turn.
        how = "spin" if row.is_green else "s"
        with ThreadPoolExecutor(1) as executor:
            late = executor.submit(site.get, f"/transaction?t=late&{how}={FOR_EVER}")
            eventually(transactions, PATIENCE)
            assert late.result().status != 200
        eventually(lambda: not transactions(), PATIENCE)
        assert server.execute("SELECT part FROM site_mark WHERE token = 'late'", DATABASE) == []
        assert_is_at_rest(site, server, observer, row.programs, ask)
        # One of its own for the new one, and those that the other one had.
        assert len(set(reports(site)) & before) == row.processes - 1
        assert len(set(observer.numbers()) & connections) <= row.processes - 1
        assert_ends(site, observer)
    assert not row.goodbye or observer.lost() == lost
