"""What a database server itself says about its clients, asked through one connection of the test's own.

The sites under test use the database ``e2e``, the observer another one or none, and it isn't counted.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.servers import DatabaseServer, MySQL, MySQLFamily, PostgreSQL

DATABASE = "e2e"
SAMPLE_SECONDS = 0.02
# Of MySQL and MariaDB: it has ended by itself meanwhile.
NO_SUCH_THREAD = 1094


@dataclass
class Watch:
    """What was seen meanwhile. ``highest`` is sampled, ``most`` is the maximum that the server has noted."""

    samples: int = 0
    highest: int = 0
    most: int = 0
    connects: int = 0


class Observer:
    """Any thread may ask, also while ``watching``."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def connections(self) -> int:
        """How many connections others have, in any state."""
        return len(self.numbers())

    def numbers(self) -> list[int]:
        """The server's numbers of others' connections."""
        raise NotImplementedError

    def last_used(self) -> dict[int, Any]:
        """Of each of these what tells its last statement from all others."""
        raise NotImplementedError

    def kill(self) -> None:
        """End all others' connections."""
        raise NotImplementedError

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """Count connections for as long as the block takes; the sums are there when it has ended."""
        watch = Watch()
        over = threading.Event()
        trouble: list[BaseException] = []

        def sample() -> None:
            try:
                while not over.wait(SAMPLE_SECONDS):
                    watch.highest = max(watch.highest, self.connections())
                    watch.samples += 1
            except BaseException as error:
                trouble.append(error)

        self._begin_counting()
        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield watch
        finally:
            over.set()
            thread.join()
        if trouble:
            raise trouble[0]
        watch.connects, watch.most = self._counted()

    def lost(self) -> int:
        """How many clients have gone without a goodbye; only its growth means something."""
        raise NotImplementedError

    def _begin_counting(self) -> None:
        raise NotImplementedError

    def _counted(self) -> tuple[int, int]:
        """Connects since ``_begin_counting``, and the most connections at any moment since."""
        raise NotImplementedError

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._lock, self._connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []


class MySQLObserver(Observer):
    """Of MariaDB, too. On the extra port, so it works when all connections are taken."""

    _connects_before = 0
    _lost_before = 0

    def __init__(self, connection: Any, server: MySQLFamily) -> None:
        super().__init__(connection)
        self._last_used = "SELECT id, query_id FROM information_schema.processlist"
        if isinstance(server, MySQL):
            self._last_used = (
                "SELECT processlist_id, event_id FROM performance_schema.threads"
                " JOIN performance_schema.events_statements_current USING (thread_id)"
            )

    def numbers(self) -> list[int]:
        others = "id <> CONNECTION_ID() AND command <> 'Daemon'"
        return [
            number
            for (number,) in self._rows(f"SELECT id FROM information_schema.processlist WHERE {others}")
        ]

    def last_used(self) -> dict[int, Any]:
        return dict(self._rows(self._last_used))

    def kill(self) -> None:
        for number in self.numbers():
            try:
                self._rows(f"KILL {number}")
            except Exception as error:
                if error.args[0] != NO_SUCH_THREAD:
                    raise

    def status(self, name: str) -> int:
        return int(self._rows(f"SHOW GLOBAL STATUS LIKE '{name}'")[0][1])

    def lost(self) -> int:
        return self._lost_before + self.status("Aborted_clients")

    def _begin_counting(self) -> None:
        # Max_used_connections starts again from the connections of this moment, and others from 0.
        self._lost_before = self.lost()
        self._rows("FLUSH STATUS")
        self._connects_before = self.status("Connections")

    def _counted(self) -> tuple[int, int]:
        # The observer itself is one of those used.
        return self.status("Connections") - self._connects_before, self.status("Max_used_connections") - 1


class PostgreSQLObserver(Observer):
    """Takes one of the server's connections. The maximum is from the server's log of comings and goings."""

    def __init__(self, connection: Any, server: PostgreSQL) -> None:
        super().__init__(connection)
        self._server = server
        self._log_before = 0
        self._open_before = 0

    def numbers(self) -> list[int]:
        others = "backend_type = 'client backend' AND pid <> pg_backend_pid()"
        return [number for (number,) in self._rows(f"SELECT pid FROM pg_stat_activity WHERE {others}")]

    def last_used(self) -> dict[int, Any]:
        return dict(self._rows("SELECT pid, query_start FROM pg_stat_activity"))

    def kill(self) -> None:
        for number in self.numbers():
            self._rows(f"SELECT pg_terminate_backend({number})")

    def lost(self) -> int:
        counts = "sessions_abandoned + sessions_fatal + sessions_killed"
        [(count,)] = self._rows(f"SELECT {counts} FROM pg_stat_database WHERE datname = '{DATABASE}'")
        return int(count)

    def _begin_counting(self) -> None:
        self._open_before = self.connections()
        self._log_before = self._server.log.stat().st_size

    def _counted(self) -> tuple[int, int]:
        connects = 0
        now = most = self._open_before
        with self._server.log.open("rb") as log:
            log.seek(self._log_before)
            for line in log:
                if f"database={DATABASE}".encode() not in line:
                    continue
                if b"connection authorized:" in line:
                    connects += 1
                    now += 1
                elif b"disconnection:" in line:
                    now -= 1
                most = max(most, now)
        return connects, most


@contextmanager
def observing(server: DatabaseServer) -> Iterator[Observer]:
    if isinstance(server, MySQLFamily):
        import pymysql

        account = {"host": server.host, "user": server.user, "password": server.password}
        with closing(pymysql.connect(port=server.extra_port, autocommit=True, **account)) as connection:
            yield MySQLObserver(connection, server)
    elif isinstance(server, PostgreSQL):
        import psycopg

        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            yield PostgreSQLObserver(connection, server)
    else:
        raise TypeError(f"no observer for {type(server).__name__}")
