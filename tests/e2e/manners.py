"""Whether clients said goodbye and kept to the protocol: what the server counts and logs of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.observer import Observer
from tests.e2e.sites import eventually
from tests.servers import DatabaseServer

PATIENCE = 30.0
COMPLAINTS = re.compile(
    r"Aborted connection|packets|unexpected EOF|from client|invalid|FATAL|PANIC|\[ERROR\]"
)


@contextmanager
def good_manners(server: DatabaseServer, observer: Observer) -> Iterator[None]:
    """All clients of the block are gone at its end, and the server has nothing to complain about."""
    # Clients of an earlier test may still be leaving.
    eventually(lambda: observer.connections() == 0, PATIENCE)
    log_before = server.log.stat().st_size
    lost_before = observer.lost()
    yield
    eventually(lambda: observer.connections() == 0, PATIENCE)
    with server.log.open("rb") as log:
        log.seek(log_before)
        said = log.read().decode(errors="replace")
    complaints = [line for line in said.splitlines() if COMPLAINTS.search(line)]
    assert complaints == []
    assert observer.lost() == lost_before
