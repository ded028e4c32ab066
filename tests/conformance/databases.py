"""The databases that Django's suite is run on: private ones, made for one run and gone after it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import MariaDB, MySQL, PostgreSQL

ALIASES = ("default", "other")

_one_starts = threading.Lock()


@dataclass(frozen=True)
class Database:
    """What of it is to be known outside of a run."""

    engine: str
    server: type[MariaDB] | type[MySQL] | type[PostgreSQL] | None
    # The driver's module.
    driver: str

    @contextmanager
    def settings(self, directory: Path) -> Iterator[dict[str, dict[str, Any]]]:
        """DATABASES, of a new server or of files in the directory."""
        if self.server is None:
            yield {
                alias: {
                    "ENGINE": self.engine,
                    "NAME": str(directory / f"{alias}.sqlite3"),
                    # In memory, Django's default, it would not be pooled.
                    "TEST": {"NAME": str(directory / f"test_{alias}.sqlite3")},
                }
                for alias in ALIASES
            }
            return
        with closing(self.server()) as server:
            # One after the other: a MariaDB that starts removes temporary tables of one that is being set up.
            with _one_starts:
                server.start()
            for alias in ALIASES:
                server.create(f"django_{alias}")
            yield {
                alias: {
                    "ENGINE": self.engine,
                    "NAME": f"django_{alias}",
                    "HOST": server.host,
                    "PORT": server.port,
                    "USER": server.user,
                    "PASSWORD": server.password,
                }
                for alias in ALIASES
            }


DATABASES = {
    "mariadb": Database("django.db.backends.mysql", MariaDB, "pymysql"),
    "mysql": Database("django.db.backends.mysql", MySQL, "pymysql"),
    "postgresql": Database("django.db.backends.postgresql", PostgreSQL, "psycopg"),
    "sqlite": Database("django.db.backends.sqlite3", None, "sqlite3"),
}
