"""What must hold of the pools of all processes when nobody asks them for anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests import processes
from tests.e2e.observer import DATABASE, Observer
from tests.e2e.sites import Site, eventually
from tests.servers import DatabaseServer
from tests.soak import HALF_WRITTEN, OPEN_TRANSACTIONS

PATIENCE = 60.0
SIZE = 2
MOST = 4
# At rest each process closes all but one: that shows that housekeeping lives in each of them.
AT_REST = 1
POOL = {"SIZE": SIZE, "MAX_OUTSTANDING": MOST, "MIN_SIZE": AT_REST, "IDLE_TIMEOUT": 1, "TIMEOUT": 30}


def reports(site: Site) -> dict[int, dict[str, Any]]:
    """What each process says of its pool."""
    # A process of another environment's: its exit status says that nobody reports.
    seen = json.loads(site.manage("db_pools", "--json").stdout)
    return {member["pid"]: member["stats"] for pool in seen["pools"] for member in pool["members"]}


def assert_all_report(site: Site, count: int, work: Callable[[], Any]) -> None:
    """So many processes, each from its first query on: who does the work is the server's choice."""

    def all_report() -> bool:
        if len(reports(site)) >= count:
            return True
        work()
        return False

    eventually(all_report, PATIENCE)


def assert_is_at_rest(site: Site, server: DatabaseServer, observer: Observer, count: int) -> None:
    """Nothing is in use, no transaction is open or half written, and each process has one connection."""

    def is_at_rest() -> bool | object:
        said = reports(site)
        in_use = {pid: stats["in_use"] for pid, stats in said.items()}
        connections = observer.connections()
        return (len(said) == count and not any(in_use.values()) and connections == count * AT_REST) or (
            # Shown where the time is up.
            _Not(f"{in_use} in use, {connections} connections")
        )

    eventually(is_at_rest, PATIENCE)
    eventually(lambda: server.execute(OPEN_TRANSACTIONS[server.scheme], DATABASE) == [], PATIENCE)
    assert server.execute(HALF_WRITTEN, DATABASE) == []


class _Not:
    def __init__(self, text: str) -> None:
        self._text = text

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return self._text


def assert_ends(site: Site, observer: Observer) -> None:
    """All its processes do when the first one is told to, and so do their connections."""
    site.terminate()
    eventually(lambda: processes.session(site.pid) == [], PATIENCE)
    eventually(lambda: observer.connections() == 0, PATIENCE)
