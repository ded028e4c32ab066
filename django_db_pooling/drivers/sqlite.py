"""sqlite3: a file instead of a socket, and nothing to wait for but its locks."""

from __future__ import annotations

import os
import sqlite3
from typing import Any

from django_db_pooling.drivers.base import Driver
from django_db_pooling.drivers.rules import SQLITE


def _same_file(path: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


class SQLite(Driver):
    rules = SQLITE
    learned = ("transaction_mode", "init_commands")
    told = ("row_factory", "text_factory", "isolation_level")

    def __init__(self) -> None:
        # id of a connection -> its file's path, and which file that was when it was opened.
        self._files: dict[int, tuple[str, tuple[int, int] | None]] = {}

    def hub(self) -> object:
        return None

    def fileno(self, connection: Any) -> int | None:
        return None

    def connected(self, connection: Any, params: dict[str, Any], asks: bool = True) -> None:
        for _, name, path in connection.execute("PRAGMA database_list"):
            if name == "main" and path:
                self._files[id(connection)] = (path, _same_file(path))

    def alive(self, connection: Any) -> bool | None:
        """A database file that was deleted or replaced lives on only for those who have it open."""
        path, then = self._files.get(id(connection), ("", None))
        return then is None or _same_file(path) == then

    def drop(self, connection: Any) -> None:
        self._files.pop(id(connection), None)
        connection.close()

    def close(self, connection: Any, close_wait: float) -> None:
        self.drop(connection)

    def broken(self, connection: Any) -> bool:
        """Closed behind Django's back; nothing else can go wrong with a file that is open."""
        try:
            _ = connection.in_transaction
        except sqlite3.ProgrammingError:
            return True
        return False

    def is_clean(self, connection: Any) -> bool:
        try:
            return not connection.in_transaction
        except sqlite3.ProgrammingError:
            return False

    def in_transaction(self, connection: Any) -> bool:
        try:
            return bool(connection.in_transaction)
        except sqlite3.ProgrammingError:
            return False

    def adapt(self, params: dict[str, Any], seconds: float | None) -> None:
        """Opening a file doesn't wait; ``timeout`` there is how long statements wait for locks."""


DRIVER = SQLite()
