"""Ways to change a session, by vendor, and how each of them shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from django.db import Error

MISSING = "missing"
# In the errors of looking at what isn't there.
NOT_THERE = ("exist", "unrecognized", "unknown prepared", "unknown table")


class Way(NamedTuple):
    """To change a session, and to see it. ``{}``: what is the request's own."""

    change: tuple[str, ...]
    look: str
    # What shows that others have, where ``look`` only sees one's own.
    look_for_others: str = ""

    @property
    def at_first(self) -> str:
        return self.look_for_others or self.look

    @property
    def can_be_in_a_block(self) -> bool:
        return "autocommit" not in self.look

    def is_own(self, told: Any, mine: str) -> bool:
        """Whether it is this request's, as far as the way says whose it is."""
        return "{}" not in self.change[0] or told in (mine, 1)


WAYS = {
    "mysql": [
        Way(("SET @mine = '{}'",), "SELECT @mine"),
        Way(("SELECT @other := '{}'",), "SELECT @other"),
        Way(("SELECT '{}' INTO@third",), "SELECT @third"),
        Way(("USE information_schema",), "SELECT DATABASE()"),
        Way(("CREATE TEMPORARY TABLE mine (a TEXT) SELECT '{}' AS a",), "SELECT a FROM mine"),
        Way(
            ("DO GET_LOCK('{}', 0)",),
            "SELECT IS_USED_LOCK('{}') = CONNECTION_ID()",
            "SELECT RELEASE_ALL_LOCKS()",
        ),
        Way(("SET time_zone = '+05:00'",), "SELECT @@time_zone"),
        Way(("SET NAMES latin1",), "SELECT @@character_set_client"),
        Way(("SET sql_mode = 'ANSI'",), "SELECT @@sql_mode"),
        Way(("SET autocommit = 0",), "SELECT @@autocommit"),
        Way(("PREPARE mine FROM 'SELECT ''{}'''",), "EXECUTE mine"),
    ],
    "postgresql": [
        Way(("SET my.tenant = '{}'",), "SELECT current_setting('my.tenant')"),
        Way(("SELECT set_config('my.other', '{}', false)",), "SELECT current_setting('my.other')"),
        Way(("SET search_path TO pg_catalog",), "SHOW search_path"),
        Way(("SET ROLE pg_monitor",), "SELECT current_user"),
        Way(("CREATE TEMPORARY TABLE mine AS SELECT '{}' AS a",), "SELECT a FROM mine"),
        Way(
            ("SELECT pg_advisory_lock(hashtext('{}'))",),
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        ),
        Way(("SET TIME ZONE 'Asia/Tokyo'",), "SHOW TimeZone"),
        Way(("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",), "SHOW default_transaction_read_only"),
        Way(('LISTEN "{}"',), "SELECT min(c) FROM pg_listening_channels() AS c"),
        Way(("PREPARE mine AS SELECT '{}'::text",), "EXECUTE mine"),
        Way(("DO $$ BEGIN PERFORM set_config('my.third', '{}', false); END $$",), "SHOW my.third"),
    ],
}


_SERIALIZABLE = ("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",)
WAYS["mariadb"] = [
    *WAYS["mysql"],
    # As the variable is called until MariaDB 11.1.
    Way(_SERIALIZABLE, "SELECT @@tx_isolation"),
    Way(("BEGIN NOT ATOMIC SET @called = '{}'; END",), "SELECT @called"),
]
WAYS["mysql"] += [
    Way(_SERIALIZABLE, "SELECT @@transaction_isolation"),
    Way(("EXPLAIN FORMAT=JSON INTO@explained SELECT 1",), "SELECT @explained"),
]


def of(connection: Any) -> list[Way]:
    """Those of the server that a connection of Django's is for."""
    return WAYS["mariadb" if getattr(connection, "mysql_is_mariadb", False) else connection.vendor]


def look(ask: Callable[[str], Any], text: str, mine: str) -> Any:
    """What is there; ``ask`` executes a statement and returns its value."""
    try:
        found = ask(text.format(mine))
    except Error as error:
        said = str(error).lower()
        if not any(word in said for word in NOT_THERE):
            raise
        return MISSING
    # PostgreSQL remembers names of its users' settings, without their values.
    return MISSING if found in (None, "") else found
