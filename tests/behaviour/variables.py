"""All variables that a session may set, with values that they may take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.behaviour.conftest import MARIADB, MYSQL, POSTGRESQL
from tests.behaviour.observer import SERVER
from tests.behaviour.photograph import sqlite_pragmas

_LEFT_OUT = {
    # Of the whole process, of the server's connection to its master, whatever the server says.
    *("hard_heap_limit", "soft_heap_limit", "temp_store_directory"),
    *("max_relay_log_size", "sql_slave_skip_counter"),
    # With these the others could not be tried.
    *("completion_type", "exit_on_error", "profiling"),
}
_WORDS = {
    "time_zone": "+05:00",
    "timezone": "Asia/Tokyo",
    "default_storage_engine": "MyISAM",
    "default_tmp_storage_engine": "MyISAM",
    "enforce_storage_engine": "InnoDB",
    "session_track_system_variables": "time_zone",
    "system_versioning_asof": "2020-01-01",
    "application_name": "mine",
    "client_encoding": "LATIN1",
    "datestyle": "German",
    "default_text_search_config": "pg_catalog.german",
    "default_tablespace": "pg_default",
    "dynamic_library_path": "$libdir:/tmp",
    "search_path": "pg_catalog",
    "session_preload_libraries": "auto_explain",
    "timezone_abbreviations": "Australia",
    "locking_mode": "exclusive",
}
if SERVER == "mysql":
    # Which doesn't say what else there is.
    _WORDS |= {
        "binlog_format": "STATEMENT",
        "binlog_row_image": "MINIMAL",
        "binlog_row_value_options": "PARTIAL_JSON",
        "block_encryption_mode": "aes-256-cbc",
        "explain_format": "JSON",
        "default_collation_for_utf8mb4": "utf8mb4_general_ci",
        "gtid_next": "ANONYMOUS",
        "internal_tmp_mem_storage_engine": "MEMORY",
        "myisam_stats_method": "nulls_equal",
        "optimizer_switch": "mrr=off",
        "optimizer_trace": "enabled=on",
        "optimizer_trace_features": "greedy_search=off",
        "rbr_exec_mode": "IDEMPOTENT",
        "resultset_metadata": "NONE",
        "session_track_gtids": "OWN_GTID",
        "session_track_transaction_info": "STATE",
        "sql_mode": "ANSI",
        "terminology_use_previous": "BEFORE_8_0_26",
        "transaction_isolation": "SERIALIZABLE",
        "updatable_views_with_limit": "NO",
        "use_secondary_engine": "OFF",
    }

Ask = Callable[[str], list[Any]]


class Variable:
    def __init__(self, name: str, value: Any, choices: list[str] | None) -> None:
        self.name = name.lower()
        self._value = str(value)
        self._choices = choices or []

    @property
    def reading(self) -> str:
        if MYSQL:
            return f"SELECT @@SESSION.{self.name}"
        return f"SHOW {self.name}" if POSTGRESQL else f"PRAGMA {self.name}"

    def settings(self) -> Iterator[str]:
        """Statements that set it to something else, if the server takes one of them."""
        for other in self._others():
            if MYSQL:
                yield f"SET SESSION {self.name} = {other}"
            else:
                yield f"SET {self.name} TO {other}" if POSTGRESQL else f"PRAGMA {self.name} = {other}"

    def _others(self) -> Iterator[str]:
        if self.name in _WORDS:
            yield f"'{_WORDS[self.name]}'"
        elif self._choices:
            yield from (f"'{one}'" for one in reversed(self._choices) if one != self._value)
        elif self._value.lstrip("-").replace(".", "", 1).isdigit():
            number = float(self._value) if "." in self._value else int(self._value)
            # First what hurts nobody where it is a timeout or a limit.
            yield from map(str, (number + 102400, number // 2, number + 1, number - 1, 1, 2))
        elif self.name.startswith("character_set"):
            yield "latin1"
        elif self.name.startswith("collation"):
            yield "latin1_swedish_ci"
        elif self.name.startswith("lc_"):
            yield from ("'de_DE'", "'POSIX'")


def variables(ask: Ask) -> list[Variable]:
    if SERVER == "mysql":
        rows = ask(
            "SELECT variable_name, variable_value, IF(data_type = 'Boolean', 'ON,OFF', NULL)"
            " FROM performance_schema.variables_metadata"
            " JOIN performance_schema.session_variables USING (variable_name)"
            " WHERE variable_scope <> 'GLOBAL' ORDER BY variable_name"
        )
        found = [Variable(name, value, choices and choices.split(",")) for name, value, choices in rows]
    elif MARIADB:
        rows = ask(
            "SELECT variable_name, session_value, enum_value_list FROM information_schema.system_variables"
            " WHERE variable_scope LIKE 'SESSION%%' AND read_only = 'NO' ORDER BY variable_name"
        )
        found = [Variable(name, value, choices and choices.split(",")) for name, value, choices in rows]
    elif POSTGRESQL:
        rows = ask(
            "SELECT name, setting, CASE vartype WHEN 'bool' THEN '{off,on}' ELSE enumvals END"
            " FROM pg_settings WHERE context IN ('user', 'superuser') ORDER BY name"
        )
        found = [Variable(*row) for row in rows]
    else:
        found = [Variable(name, ask(f"PRAGMA {name}")[0][0], None) for name in _simple_pragmas(ask)]
    return [one for one in found if one.name not in _LEFT_OUT]


def _simple_pragmas(ask: Ask) -> list[str]:
    return [name for name in sqlite_pragmas(ask) if [len(row) for row in ask(f"PRAGMA {name}")] == [1]]
