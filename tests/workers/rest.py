"""What must hold of the pools of all processes when nobody asks them for anything."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
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
    """What each process says that has a pool, by its pid."""
    # Its status says that nobody reports, which isn't an error here.
    seen = json.loads(site.manage("db_pools", "--json").stdout)
    return {member["pid"]: member for pool in seen["pools"] for member in pool["members"]}


def assert_is_at_rest(
    site: Site, server: DatabaseServer, observer: Observer, programs: Sequence[str], work: Callable[[], Any]
) -> None:
    """These report; each has one connection that nobody uses, and no transaction is open.

    Each reports from its first query on, and which of them does the work is the server's choice: so there is
    more of it until all have had some. ``programs``: what each is called; "#" is a number that no two share.
    """
    count = len(programs)
    seen = ""
    called: list[str] = []

    def is_at_rest() -> bool:
        nonlocal seen
        said = reports(site)
        if len(said) < count:
            work()
        in_use = {pid: member["stats"]["in_use"] for pid, member in said.items()}
        called[:] = sorted(member["program"] for member in said.values())
        connections = observer.connections()
        seen = f"in use by process: {in_use}; {connections} connections; they are called {called}"
        return len(said) == count and not any(in_use.values()) and connections == count * AT_REST

    try:
        eventually(is_at_rest, PATIENCE)
    finally:
        print(seen)
    assert [re.sub(r"\d+", "#", name) for name in called] == sorted(programs)
    numbered = [name for name in called if re.search(r"\d", name)]
    assert len(set(numbered)) == len(numbered)
    eventually(lambda: server.execute(OPEN_TRANSACTIONS[server.scheme], DATABASE) == [], PATIENCE)
    assert server.execute(HALF_WRITTEN, DATABASE) == []


def assert_ends(site: Site, observer: Observer) -> None:
    """All its processes do when the first one is told to, and so do their connections."""
    site.terminate()
    eventually(lambda: processes.session(site.pid) == [], PATIENCE)
    eventually(lambda: observer.connections() == 0, PATIENCE)
