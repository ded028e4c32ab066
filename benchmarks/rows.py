"""What the benchmark's table contains: a token for each row, so that every answer can be checked."""

from __future__ import annotations

ROWS = 1000
TABLE = "benchmark_row"


def token(key: int) -> str:
    return f"token {key * 7919 % 104_729}"


def partner(key: int) -> int:
    """The second row of a view that reads two."""
    return key % ROWS + 1


def person(key: int) -> str:
    """The person that a view finds in the directory, see tests/slapd.py."""
    return f"User {key:03}"


def sql() -> str:
    """Statements that create the table."""
    rows = ", ".join(f"({key}, '{token(key)}')" for key in range(1, ROWS + 1))
    return (
        f"CREATE TABLE {TABLE} (id INTEGER PRIMARY KEY, text VARCHAR(100) NOT NULL);"
        f" INSERT INTO {TABLE} (id, text) VALUES {rows}"
    )
