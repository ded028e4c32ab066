"""Whether clients said goodbye and kept to the protocol: what the server counts and logs of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.observer import DATABASE, Observer
from tests.e2e.sites import eventually
from tests.servers import Server

PATIENCE = 30.0
LOST = {
    "mysql": "SELECT variable_value FROM information_schema.global_status"
    " WHERE variable_name = 'ABORTED_CLIENTS'",
    "postgres": "SELECT sessions_abandoned + sessions_fatal + sessions_killed FROM pg_stat_database"
    f" WHERE datname = '{DATABASE}'",
}
COMPLAINTS = re.compile(
    r"Aborted connection|packets|unexpected EOF|from client|invalid|FATAL|PANIC|\[ERROR\]"
)


@contextmanager
def good_manners(server: Server, observer: Observer) -> Iterator[None]:
    """All clients of the block are gone at its end, and the server has nothing to complain about."""
    # Clients of an earlier test may still be leaving.
    eventually(lambda: observer.connections() == 0, PATIENCE)
    log_before = server.log.stat().st_size
    lost_before = server.execute(LOST[server.scheme])
    yield
    eventually(lambda: observer.connections() == 0, PATIENCE)
    with server.log.open("rb") as log:
        log.seek(log_before)
        said = log.read().decode(errors="replace")
    complaints = [line for line in said.splitlines() if COMPLAINTS.search(line)]
    assert complaints == []
    assert server.execute(LOST[server.scheme]) == lost_before
