"""The server's own word on what statements do to a session: a wrong "no" of the rules is found by it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from django_db_pooling import drivers
from tests.behaviour import texts
from tests.behaviour.conftest import MYSQL, POSTGRESQL, plain
from tests.behaviour.photograph import USER_VARIABLES

# Connecting to PostgreSQL takes longer.
EXAMPLES = 300 if POSTGRESQL else 500
# The rules are one family's, whatever the driver; PyMySQL has the server's flag besides.
pytestmark = [pytest.mark.only("pymysql", "psycopg", "sqlite3"), pytest.mark.only("threads")]

if MYSQL:
    from pymysql.constants import CLIENT

    # And SESSION_TRACK, which PyMySQL doesn't know.
    OPTIONS: dict[str, Any] = {"client_flag": CLIENT.MULTI_STATEMENTS | 1 << 23}
    STATE = [
        USER_VARIABLES,
        "SELECT @@sql_mode, @@character_set_client, @@time_zone, @@autocommit, DATABASE()",
        "SELECT IS_USED_LOCK('mine') = CONNECTION_ID()",
        "SELECT * FROM mine LIMIT 0",
        "EXECUTE mine",
    ]
elif POSTGRESQL:
    OPTIONS = {}
    STATE = [
        # What was set for a transaction is the empty text after it.
        """
        SELECT
            ARRAY(SELECT name || setting FROM pg_settings
                WHERE source = 'session' AND name NOT LIKE 'transaction%' ORDER BY name),
            ARRAY(SELECT coalesce(current_setting(name, true), '') FROM unnest(
                ARRAY['my.mine', 'local.mine', 'transaction.mine', 'constraints.mine']) AS name),
            ARRAY(SELECT relname::text FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
            (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'),
            ARRAY(SELECT name FROM pg_prepared_statements),
            ARRAY(SELECT name FROM pg_cursors WHERE is_holdable),
            ARRAY(SELECT pg_listening_channels())
        """,
    ]
else:
    OPTIONS = {}
    STATE = [
        "PRAGMA cache_size",
        "PRAGMA temp.cache_size",
        "SELECT name FROM pragma_database_list WHERE name NOT IN ('main', 'temp')",
        "SELECT name FROM sqlite_temp_master",
    ]


class Session:
    """One of the server's own, without a pool, until it is changed."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._stack = ExitStack()
        self.begin()

    def begin(self) -> None:
        self._stack.close()
        if MYSQL or POSTGRESQL:
            self._raw = self._stack.enter_context(_connected())
        else:
            self._raw = self._stack.enter_context(_in_memory())
        if MYSQL:
            self._ask("SET SESSION session_track_state_change = ON")
            self._ask(f"SET SESSION sql_mode = '{self._mode}'")
        if POSTGRESQL:
            self._ask("DISCARD ALL")
        self._state = self._look()

    def close(self) -> None:
        self._stack.close()

    def changes(self, text: str) -> bool | None:
        """Whether a statement does; then it is another session's turn. None: the server refuses it."""
        refused, flagged = self._execute(text)
        changed = flagged or self._look() != self._state
        if (changed or refused) and not (POSTGRESQL and self._is_discarded()):
            self.begin()
        return True if changed else None if refused else False

    def _is_discarded(self) -> bool:
        """As new, for less than connecting takes."""
        self._ask("DISCARD ALL")
        return self._look() == self._state

    def _execute(self, text: str) -> tuple[bool, bool]:
        cursor = self._raw.cursor()
        driver = drivers.find(__import__("pymysql")) if MYSQL else None
        flagged = False
        try:
            cursor.execute(text)
            if driver is not None:
                flagged = driver.session_changed(self._raw)
                while cursor.nextset():
                    flagged = flagged or driver.session_changed(self._raw)
        except Exception:
            return True, flagged
        return False, flagged

    def _look(self) -> list[Any]:
        return [self._ask(statement) for statement in STATE]

    def _ask(self, statement: str) -> Any:
        cursor = self._raw.cursor()
        try:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else None
        except Exception as error:
            return type(error), error.args[:1]


@contextmanager
def _connected() -> Iterator[Any]:
    with plain(OPTIONS=OPTIONS) as wrapper:
        wrapper.ensure_connection()
        yield wrapper.connection


@contextmanager
def _in_memory() -> Iterator[Any]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


@pytest.mark.parametrize("mode", texts.MODES)
def test_what_the_server_sees_the_text_shows(mode: str, request: pytest.FixtureRequest) -> None:
    """It is the same run each time. With ``--hypothesis-seed=1`` it is another."""
    with plain() as wrapper:
        driver = drivers.find(wrapper.Database)
    assert driver is not None
    session = Session(mode)
    answers: list[bool | None] = []

    @settings(
        max_examples=EXAMPLES // len(texts.MODES),
        derandomize=request.config.getoption("--hypothesis-seed", None) is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(texts.texts(mode))
    def check(text: str) -> None:
        changed = session.changes(text)
        answers.append(changed)
        assert not changed or driver.rules.traits(text).changes, text

    try:
        check()
    finally:
        session.close()
    # Else this proves nothing.
    assert answers.count(True) > len(answers) / 5
    assert answers.count(None) < len(answers) / 2
