"""Checkout and checkin of a pool by itself, with connections that do nothing. Prints JSON.

Runs in the environment of the variant that has the pool. ``--gevent``: with gevent's patched locks.
"""

from __future__ import annotations

import sys

if "--gevent" in sys.argv:
    from gevent import monkey

    monkey.patch_all()

# ruff: noqa: E402
import json
import time
from collections.abc import Callable
from typing import Any

from benchmarks.calls import counting

SIZE = 20
WARM_UP = 1000
CYCLES = 5000
REPEATS = 7

Cycle = Callable[[], None]


class Nothing:
    """A connection without a database."""

    def close(self, *ignored: Any) -> None: ...

    rollback = commit = close


def django_db_pooling() -> Cycle:
    from django_db_pooling.pool import Pool
    from django_db_pooling.pool.limits import Limits

    class Driver:
        can_end = ends_elsewhere = False

        def hub(self) -> object:
            return None

        def alive(self, connection: Any) -> bool | None:
            return True

        def is_executing(self, connection: Any, error: BaseException | None) -> bool:
            return False

        def end(self, connections: list[Any], seconds: float) -> None: ...

        def drop(self, connection: Any) -> None: ...

        def close(self, connection: Any, close_wait: float) -> None: ...

    pool = Pool("default", Limits(size=SIZE, max_outstanding=SIZE), Driver())

    def cycle() -> None:
        slot = pool.checkout(None)
        if slot.connection is None:
            slot.connection = Nothing()
            pool.opened(slot)
        if pool.wants(slot):
            pool.checkin(slot)

    return cycle


def sqlalchemy() -> Cycle:
    from sqlalchemy.pool import QueuePool

    creator: Any = Nothing
    pool = QueuePool(lambda: creator(), pool_size=SIZE, max_overflow=0)

    def cycle() -> None:
        pool.connect().close()

    return cycle


def psycopg_pool() -> Cycle:
    from psycopg.pq import TransactionStatus
    from psycopg_pool import ConnectionPool

    class Libpq:
        transaction_status = TransactionStatus.IDLE
        status = 0

    class Connection(Nothing):
        pgconn = Libpq()
        closed = False
        _pool: Any = None

        @classmethod
        def connect(cls, conninfo: str = "", **options: Any) -> Connection:
            return cls()

    connection_class: Any = Connection
    pool: Any = ConnectionPool(connection_class=connection_class, min_size=4, max_size=SIZE, open=False)
    pool.open(wait=True)

    def cycle() -> None:
        pool.putconn(pool.getconn())

    return cycle


POOLS: dict[str, Callable[[], Cycle]] = {
    "django_db_pooling": django_db_pooling,
    "SQLAlchemy QueuePool": sqlalchemy,
    "psycopg_pool": psycopg_pool,
}


def measure(cycle: Cycle) -> dict[str, float]:
    for _ in range(WARM_UP):
        cycle()
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        for _ in range(CYCLES):
            cycle()
        best = min(best, time.perf_counter() - began)
    with counting() as count:
        cycle()
    # Without the call of ``cycle`` itself.
    return {"nanoseconds": best / CYCLES * 1e9, "calls": count.python - 1, "c_calls": count.c}


def main() -> None:
    print(json.dumps(measure(POOLS[sys.argv[1]]())))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
