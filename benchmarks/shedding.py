"""Twice the load that a pool can take, with and without ``WAIT_TARGET``: answers in time, side by side.

A pool of five connections under ``gunicorn -k gevent -w 1``, with a view that holds one for 50 ms. Visitors
come at their own pace, whatever becomes of those before them, and give up after a second; the site doesn't
notice that, and works for them all the same. ``python -m benchmarks.shedding``.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter
from typing import Any

from benchmarks.report import render
from tests.e2e.conftest import create_rows
from tests.e2e.sites import Site, gunicorn
from tests.servers import HOST, DatabaseServer, MariaDB, PostgreSQL

SERVERS = {"mysql": MariaDB, "postgresql": PostgreSQL}
# Without it each error is a page of Django's and a traceback in the log, which cost more than an answer.
MIDDLEWARE = "django_db_pooling.middleware.PoolTimeoutMiddleware"
POOL, HOLD = 5, 0.05
# What the pool can take, requests a second.
CAPACITY = POOL / HOLD
# Seconds after which a visitor gives up; those that the pool lets a caller wait; the target.
GIVE_UP, TIMEOUT, TARGET = 1.0, 30, 0.1
LOADS = (0.5, 1.0, 2.0, 4.0)
HEAD = ["load", "WAIT_TARGET", "req/s", "in time/s", "in time", "refused", "gave up", "p50 ms", "p99 ms"]


class Visitors:
    """They come at random moments, so many a second on average."""

    def __init__(self, port: int, rate: float, seconds: float) -> None:
        self.became: Counter[str] = Counter()
        self.times: list[float] = []
        self._port, self._rate, self._seconds = port, rate, seconds

    async def come(self) -> None:
        ends, visits, chance = time.monotonic() + self._seconds, set(), random.Random(1)
        due = time.monotonic()
        while due < ends:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            visit = asyncio.create_task(self._visit())
            visits.add(visit)
            visit.add_done_callback(visits.discard)
            due += chance.expovariate(self._rate)
        await asyncio.gather(*visits)

    async def _visit(self) -> None:
        began = time.monotonic()
        try:
            status = await asyncio.wait_for(self._ask(), GIVE_UP)
        except TimeoutError:
            self.became["gave up"] += 1
            return
        except OSError:
            status = 0
        if status == 200:
            self.times.append(time.monotonic() - began)
        self.became["in time" if status == 200 else "refused"] += 1

    async def _ask(self) -> int:
        reader, writer = await asyncio.open_connection(HOST, self._port)
        try:
            writer.write(f"GET /hold?s={HOLD} HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
            answer = await reader.read()
            return int(answer.split(b" ", 2)[1]) if answer else 0
        finally:
            writer.close()


def measure(server: DatabaseServer, target: float | None, load: float, seconds: float) -> list[str]:
    """One row of the table."""
    pool: dict[str, Any] = {"TIMEOUT": TIMEOUT, "WAIT_TARGET": target}
    driver = {"mysql": "pymysql", "postgres": "psycopg"}[server.scheme]
    settings = {"pool": pool, "driver": driver, "middleware": MIDDLEWARE}
    with gunicorn(server, pooling=(POOL, POOL), **settings) as site:
        visitors = _visit(site, load, seconds)
    total, in_time = visitors.became.total(), visitors.became["in time"]
    times = sorted(visitors.times) or [0.0]
    return [
        f"{load:g} x",
        "None" if target is None else f"{target:g}",
        f"{total / seconds:.0f}",
        f"{in_time / seconds:.0f}",
        *(f"{100 * visitors.became[name] / total:.0f} %" for name in ("in time", "refused", "gave up")),
        f"{1000 * times[len(times) // 2]:.0f}",
        f"{1000 * times[int(0.99 * len(times))]:.0f}",
    ]


def _visit(site: Site, load: float, seconds: float) -> Visitors:
    # Its connections are open, and the interpreter has seen all of the code.
    asyncio.run(Visitors(site.port, CAPACITY / 2, 2.0).come())
    visitors = Visitors(site.port, CAPACITY * load, seconds)
    asyncio.run(visitors.come())
    return visitors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--loads", nargs="+", type=float, default=LOADS, help="times what the pool can take")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run")
    parser.add_argument("--rst", action="store_true", help="tables for the documentation")
    arguments = parser.parse_args()
    for name in arguments.servers:
        with SERVERS[name]() as server:
            create_rows(server)
            rows = [
                measure(server, target, load, arguments.seconds)
                for load in arguments.loads
                for target in (None, TARGET)
            ]
        title = f"{name}, {POOL} connections, {CAPACITY:.0f} requests a second, {GIVE_UP:g} s of patience"
        print(render(title, HEAD, rows, arguments.rst))


if __name__ == "__main__":
    main()
