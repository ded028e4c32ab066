"""All that a session has and another hasn't, as the server and the driver's object tell it.

Looking goes past Django and past the pool, so that it counts as nothing that a user does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from django.db import connections

from tests.behaviour.conftest import MARIADB, MYSQL, POSTGRESQL
from tests.behaviour.observer import DRIVER, Observer

# In it are a row and whatever statements of tests add.
TABLE = "reset_table"
# A trigger may be there.
WATCHED = "reset_watched"
NAME = "mine"

if MARIADB:
    _LOCKS = (
        "SELECT lock_mode, lock_type, table_schema, table_name"
        " FROM information_schema.metadata_lock_info WHERE thread_id = {}"
    )
    USER_VARIABLES = "SELECT * FROM information_schema.user_variables ORDER BY variable_name"
else:
    # Of MySQL.
    _LOCKS = (
        "SELECT lock_type, object_type, object_schema, object_name FROM performance_schema.metadata_locks"
        " JOIN performance_schema.threads ON owner_thread_id = thread_id WHERE processlist_id = {}"
    )
    USER_VARIABLES = (
        "SELECT variable_name, variable_value FROM performance_schema.user_variables_by_thread"
        " WHERE thread_id = PS_CURRENT_THREAD_ID() ORDER BY variable_name"
    )
    _RESOURCE_GROUP = (
        "SELECT resource_group FROM performance_schema.threads WHERE thread_id = PS_CURRENT_THREAD_ID()"
    )

Photograph = dict[str, Any]

# SQLite's that do something, or are the file's and not the session's.
_OF_THE_FILE = {
    *("application_id", "auto_vacuum", "data_version", "default_cache_size", "encoding", "freelist_count"),
    *("journal_mode", "page_count", "page_size", "schema_version", "user_version"),
}
_DOING = {
    *("case_sensitive_like", "foreign_key_check", "incremental_vacuum", "integrity_check", "optimize"),
    *("quick_check", "shrink_memory", "wal_checkpoint"),
}
_ABOUT_TABLES = {"foreign_key_list", "index_info", "index_list", "index_xinfo", "table_info", "table_xinfo"}


def of(wrapper: Any, observer: Observer) -> Photograph:
    """``wrapper``: connected, or it connects and keeps what it gets."""
    wrapper.ensure_connection()
    raw = wrapper.connection

    def ask(statement: str) -> Any:
        """What it answers, or which error."""
        cursor = raw.cursor()
        try:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else None
        except wrapper.Database.Error as error:
            return ("error", _code(error))
        finally:
            cursor.close()

    if MYSQL:
        return _mysql(raw, ask, observer)
    return _postgresql(raw, ask) if POSTGRESQL else _sqlite(raw, ask)


def of_alias(alias: str, observer: Observer) -> Photograph:
    """Inside of a request."""
    return of(connections[alias], observer)


def differences(one: Photograph, other: Photograph) -> dict[str, Any]:
    return {
        name: (one.get(name), other.get(name))
        for name in one.keys() | other.keys()
        if one.get(name) != other.get(name)
    }


def _code(error: Any) -> Any:
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or error.args[0]


def _mysql(raw: Any, ask: Callable[[str], Any], observer: Observer) -> Photograph:
    number = raw.thread_id()
    taken: Photograph = {
        # Before anything else: a transaction gives them back, and uses up what is meant for the next one.
        "locks": observer.rows(_LOCKS.format(number)),
        **_next_transaction(raw, ask, observer),
        "own_id": ask(f"SELECT CONNECTION_ID() = {number}, @@pseudo_thread_id = {number}"),
        "clock": abs(ask("SELECT @@timestamp")[0][0] - time.time()) < 60,
        # As it is after small seeds.
        "luck": ask("SELECT RAND() < 0.0000001"),
        "who": ask("SELECT CURRENT_ROLE(), USER(), CURRENT_USER(), DATABASE()"),
        "user_variables": ask(USER_VARIABLES),
        "resource_group": None if MARIADB else ask(_RESOURCE_GROUP),
        "prepared": ask(f"EXECUTE {NAME}"),
        "handler": ask(f"HANDLER {NAME} READ FIRST"),
        "temporary": [ask(f"SELECT a FROM {name} LIMIT 0") for name in (NAME, TABLE)],
        "profiles": ask("SHOW PROFILES"),
        "driver": [getattr(raw, name, None) for name in ("charset", "encoding", "db")],
    }
    taken["driver"] += [raw.get_autocommit(), raw.character_set_name()]
    return taken | dict(ask("SHOW SESSION VARIABLES"))


def _next_transaction(raw: Any, ask: Callable[[str], Any], observer: Observer) -> Photograph:
    """What was set for the next transaction only: SERIALIZABLE locks what it reads."""
    import pymysql

    begun = ask("START TRANSACTION")
    ask(f"SELECT a FROM {TABLE}")
    # With NOWAIT MySQL still waits for metadata locks.
    observer.rows("SET lock_wait_timeout = 1")
    try:
        observer.rows(f"SELECT * FROM {observer.name}.{TABLE} FOR UPDATE NOWAIT")
        locks = None
    except pymysql.MySQLError as error:
        locks = _code(error)
    told = {"begins": begun, "reading_locks": locks, "writes": ask(f"DELETE FROM {TABLE} WHERE a = -1")}
    raw.rollback()
    return told


def _postgresql(raw: Any, ask: Callable[[str], Any]) -> Photograph:
    # A library brings its settings, and this one is there for everybody.
    ask("DO $$ BEGIN END $$")
    settings = ask(
        "SELECT name, CASE WHEN name LIKE 'transaction%' THEN setting ELSE setting || ' by ' || source END"
        " FROM pg_settings"
    )
    return dict(settings) | {
        # Before anything fails: an error drops them.
        "slots": ask("SELECT slot_name FROM pg_replication_slots WHERE temporary"),
        "who": ask("SELECT current_user, session_user, current_schemas(false), current_setting('role')"),
        "own": ask(f"SELECT coalesce(current_setting('my.{NAME}', true), '')"),
        "prepared": ask("SELECT name FROM pg_prepared_statements WHERE from_sql"),
        "cursors": ask("SELECT name FROM pg_cursors WHERE is_holdable"),
        "locks": ask(
            "SELECT locktype, mode FROM pg_locks WHERE pid = pg_backend_pid()"
            " AND locktype NOT IN ('relation', 'virtualxid')"
        ),
        "channels": ask("SELECT pg_listening_channels()"),
        "temporary": ask("SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()"),
        "functions": ask("SELECT proname FROM pg_proc WHERE pronamespace = pg_my_temp_schema()"),
        "sequence": ask("SELECT lastval()"),
        # Of the seed 0.5.
        "luck": ask("SELECT abs(random() - 0.98516771) < 0.0000001"),
        "libraries": ask("SELECT current_setting('auto_explain.log_nested_statements', true)"),
        "connected": ask("SELECT dblink_get_connections()"),
        "origin": ask("SELECT pg_replication_origin_session_is_setup()"),
        "backup": ask("SELECT 1 FROM pg_backup_stop(false)"),
        "heard": list(raw.notifies if DRIVER == "psycopg2" else raw._notifies_backlog),
        "autocommit": raw.autocommit,
        "status": getattr(raw.info, "transaction_status", None),
        "encoding": getattr(raw.info, "encoding", None) or raw.encoding,
        "in_driver": [getattr(raw, name, None) for name in ("isolation_level", "read_only", "readonly")],
    }


def sqlite_pragmas(ask: Callable[[str], Any]) -> list[str]:
    """Those that tell something of a session."""
    return [
        name for (name,) in ask("PRAGMA pragma_list") if name not in _OF_THE_FILE | _DOING | _ABOUT_TABLES
    ]


def _sqlite(raw: Any, ask: Callable[[str], Any]) -> Photograph:
    return {name: ask(f"PRAGMA {name}") for name in sqlite_pragmas(ask)} | {
        "temporary": ask("SELECT name FROM sqlite_temp_master"),
        "like": ask("SELECT 'a' LIKE 'A'"),
        "temp_cache": ask("PRAGMA temp.cache_size"),
        "in_driver": [raw.row_factory, raw.text_factory, raw.isolation_level, raw.in_transaction],
    }
