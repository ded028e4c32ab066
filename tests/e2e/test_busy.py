"""A full pool behind PoolTimeoutMiddleware: what replaces an error page leaves each request with one end."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import PATIENCE
from tests.e2e.sites import Site, eventually, gunicorn, uvicorn
from tests.servers import MariaDB

MIDDLEWARE = "django_db_pooling.middleware.PoolTimeoutMiddleware tests.site.busy.querying"
SECONDS = 6.0


@contextmanager
def site_of(server: str, mariadb: MariaDB, events: Path) -> Iterator[Site]:
    settings = {"middleware": MIDDLEWARE, "pool": {"TIMEOUT": 0.2}, "events": str(events)}
    if server == "uvicorn":
        running = uvicorn(mariadb, pooling=(1, 1), **settings)
    else:
        arguments = ["--threads=4"] if server == "gthread" else []
        running = gunicorn(mariadb, pooling=(1, 1), worker=server, arguments=arguments, **settings)
    with running as site:
        yield site


@contextmanager
def full(site: Site) -> Iterator[None]:
    """Somebody has the only connection."""
    with ThreadPoolExecutor(1) as executor:
        holding = executor.submit(site.get, f"/hold?pin&s={SECONDS}")
        eventually(lambda: site.stats()["in_use"] == 1, PATIENCE)
        yield
        assert not holding.done(), "it was not full to the end"
        assert holding.result().status == 200


@pytest.mark.parametrize("server", ["gevent", "gthread", "uvicorn"])
def test_a_request_whose_error_page_is_replaced_is_finished_once_and_at_its_end(
    server: str, mariadb: MariaDB, tmp_path: Path
) -> None:
    events = tmp_path / "events"
    with site_of(server, mariadb, events) as site, full(site):

        def told() -> list[str]:
            """From the first of these pages on."""
            return events.read_text().partition("/nothing?page=text\n")[2].splitlines()

        for ends, page in enumerate(("text", "file", "stream", None), 1):
            answer = site.get("/nothing" if page is None else f"/nothing?page={page}")
            if page is not None:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
            # Servers go on after the client has its answer.
            eventually(lambda ends=ends: len([e for e in told() if "finished" in e]) >= ends, PATIENCE)
        assert told() == [
            "finished",
            *("/nothing?page=file", "closed", "finished"),
            *("/nothing?page=stream", "closed", "finished"),
            *("/nothing", "finished"),
        ]
