"""The server's own view of our connections, through a connection that no pool knows."""

from __future__ import annotations

import os
from typing import Any

from django.conf import settings

DRIVER = os.environ["POOLING_DRIVER"]
# MySQL and MariaDB have the same drivers.
SERVER = os.environ.get("POOLING_SERVER") or {
    "sqlite3": "",
    "psycopg": "postgresql",
    "psycopg2": "postgresql",
}.get(DRIVER, "mariadb")
# Of both: it has ended by itself meanwhile.
NO_SUCH_THREAD = 1094


class Observer:
    """Counts and kills the server's connections to the test database, but for its own.

    On SQLite, where there is no server, a connection is an open descriptor of the database file.
    """

    def __init__(self) -> None:
        database = settings.DATABASES["default"]
        self.name = str(database["NAME"])
        self._connection: Any = None
        where = {"host": database["HOST"], "user": database["USER"], "password": database["PASSWORD"]}
        if DRIVER in ("pymysql", "mysqlclient"):
            # PyMySQL in both cases: it waits in gevent, as this must.
            import pymysql

            self._connection = pymysql.connect(port=int(database["PORT"]), autocommit=True, **where)
        elif DRIVER == "psycopg":
            import psycopg

            self._connection = psycopg.connect(
                port=database["PORT"], dbname="postgres", autocommit=True, **where
            )
        elif DRIVER == "psycopg2":
            import psycopg2

            self._connection = psycopg2.connect(port=database["PORT"], dbname="postgres", **where)
            self._connection.autocommit = True

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def ids(self) -> list[int]:
        """The server's ids of the connections to the test database; on SQLite, descriptors."""
        if DRIVER == "sqlite3":
            return _descriptors_of(self.name)
        if "mysql" in DRIVER:
            sql = f"SELECT id FROM information_schema.processlist WHERE db = '{self.name}'"
        else:
            sql = f"SELECT pid FROM pg_stat_activity WHERE datname = '{self.name}'"
        return [row[0] for row in self.rows(sql)]

    def count(self) -> int:
        return len(self.ids())

    def kill(self) -> int:
        """Kill all of them on the server; how many."""
        ids = self.ids()
        for number in ids:
            try:
                self.rows(f"KILL {number}" if "mysql" in DRIVER else f"SELECT pg_terminate_backend({number})")
            except Exception as error:
                if error.args[0] != NO_SUCH_THREAD:
                    raise
        return len(ids)


def _descriptors_of(path: str) -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == os.path.realpath(path):
                found.append(int(name))
        except OSError:
            continue
    return found
