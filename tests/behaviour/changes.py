"""Statements that change their session, and the ways in which one may come to be executed."""

from __future__ import annotations

from contextlib import suppress
from uuid import uuid4

from django.conf import settings
from django.db import Error

from tests.behaviour.conftest import MARIADB, MYSQL, POSTGRESQL
from tests.behaviour.observer import SERVER
from tests.behaviour.photograph import NAME, TABLE, WATCHED
from tests.behaviour.routes import ROUTINE, Execute

ROLE = "reset_role"
GROUP = "reset_group"
# Of what the whole server has only one: a file, a replication slot.
UNIQUE = f"reset_{uuid4().hex}"

_USER_VARIABLE = [
    "SET @mine = 1",
    "SET @`mine` = 1",
    "SET @'mine' := 1",
    "SELECT @mine := 1",
    "SELECT @mine:=1",
    "SELECT @'mine' := 1",
    "SELECT 1 INTO @mine",
    "SELECT 1 INTO@mine",
    "SELECT 1 INTO\n@`mine`",
    "(SELECT 1) INTO @mine",
    "DO @mine := 1",
    "WITH one AS (SELECT 1 AS a) SELECT @mine := a FROM one",
    f"INSERT INTO {TABLE} VALUES (@mine := 5)",
    f"UPDATE {TABLE} SET a = a WHERE (@mine := a) > 0",
    f"DELETE FROM {TABLE} WHERE (@mine := a) < 0",
    "GET DIAGNOSTICS @mine = ROW_COUNT",
    "GET CURRENT DIAGNOSTICS @mine = NUMBER",
    f"LOAD DATA INFILE '{UNIQUE}' INTO TABLE {TABLE} (@mine) SET a = @mine",
    "/*! SET @mine = 1 */",
    "/* SELECT 1; */ SET @mine = 1",
    "-- a comment\nSET @mine = 1",
    "# a comment\nSET @mine = 1",
]
_OF_BOTH = [
    *_USER_VARIABLE,
    "USE information_schema",
    "SET NAMES latin1",
    "SET CHARACTER SET latin1",
    "SET @@SESSION.time_zone = '+05:00'",
    "SET @@time_zone := '+05:00'",
    "SET LOCAL sql_mode = 'ANSI'",
    "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET SESSION TRANSACTION READ ONLY",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET TRANSACTION READ ONLY",
    "SET autocommit = 0",
    "SET completion_type = 'CHAIN'",
    "SET timestamp = 5",
    "SET insert_id = 77",
    "SET last_insert_id = 77",
    "SELECT LAST_INSERT_ID(77)",
    f"UPDATE {TABLE} SET a = LAST_INSERT_ID(a + 1)",
    "SET rand_seed1 = 1, rand_seed2 = 2",
    "SET pseudo_thread_id = 99",
    "SET sql_log_bin = 0",
    # Of a name there is one in the whole server, and a closed session keeps it for a moment.
    f"SELECT GET_LOCK('one_{UNIQUE}', 0)",
    f"DO get_lock ('other_{UNIQUE}', 0)",
    f"LOCK TABLES {TABLE} READ",
    f"LOCK TABLE {TABLE} WRITE",
    "FLUSH TABLES WITH READ LOCK",
    f"FLUSH TABLES {TABLE} WITH READ LOCK",
    f"FLUSH LOCAL TABLES {TABLE} FOR EXPORT",
    f"CREATE TEMPORARY TABLE {NAME} (a INT)",
    f"CREATE TEMPORARY TABLE {NAME} LIKE {TABLE}",
    f"CREATE TEMPORARY TABLE {TABLE} (b INT)",
    f"PREPARE {NAME} FROM 'SELECT 1'",
    f"HANDLER {TABLE} OPEN AS {NAME}",
]
_ROLE = [
    f"SET ROLE {ROLE}",
    f"/* hidden */ set role '{ROLE}'",
]
_FOR_GOOD = [
    "SET profiling = 1",
    "SET @@profiling = 1",
    "SET unique_checks = 1, SESSION profiling = 1",
]
_MARIADB = [
    *_OF_BOTH,
    "VALUES (1), (@mine := 1)",
    "EXECUTE IMMEDIATE 'SET @mine = 1'",
    "BEGIN NOT ATOMIC SET @mine = 1; END",
    "IF 1 = 1 THEN SET @mine = 1; END IF",
    "CASE 1 WHEN 1 THEN SET @mine = 1; END CASE",
    "FOR i IN 1..2 DO SET @mine = i; END FOR",
    "WHILE @mine IS NULL DO SET @mine = 1; END WHILE",
    "REPEAT SET @mine = 1; UNTIL @mine = 1 END REPEAT",
    "/*M!100100 SET @mine = 1 */",
    "SET STATEMENT max_statement_time = 5 FOR SELECT @mine := 1",
    "ANALYZE SELECT @mine := 1",
    f"BACKUP LOCK {TABLE}",
    "BACKUP STAGE START",
    f"CREATE OR REPLACE TEMPORARY TABLE {NAME} SELECT 5 AS a",
    f"CREATE TEMPORARY SEQUENCE {NAME}",
]
_MARIADB_ROLE = [
    *_ROLE,
    f"EXECUTE IMMEDIATE 'SET ROLE {ROLE}'",
    f"BEGIN NOT ATOMIC SET ROLE {ROLE}; END",
    f"SET STATEMENT max_statement_time = 5 FOR SET ROLE {ROLE}",
]
_MYSQL = [
    *_OF_BOTH,
    "VALUES ROW(1), ROW(@mine := 1)",
    "VALUES ROW(1) INTO@mine",
    f"TABLE {TABLE} LIMIT 1 INTO @mine",
    "EXPLAIN FORMAT=JSON INTO@mine SELECT 1",
    "EXPLAIN ANALYZE SELECT @mine := 1",
    "LOCK INSTANCE FOR BACKUP",
]
_MYSQL_FOR_GOOD = [
    *_FOR_GOOD,
    f"SET RESOURCE GROUP {GROUP}",
    f"set /* hidden */ resource\ngroup `{GROUP}`",
]
_DATABASE = settings.DATABASES["default"]
_DSN = " ".join(
    f"{key}={_DATABASE[name]}"
    for key, name in {
        "host": "HOST",
        "port": "PORT",
        "user": "USER",
        "password": "PASSWORD",
        "dbname": "NAME",
    }.items()
)
_POSTGRESQL_FOR_GOOD = [
    "SELECT setseed(0.5)",
    "SET seed = 0.5",
    "SET SESSION seed TO 0.5",
    "LOAD 'auto_explain'",
    "LOAD $$auto_explain$$",
    "LOAD U&'auto_explain'",
    f"SELECT dblink_connect('mine', '{_DSN}')",
    f"SELECT pg_create_physical_replication_slot('{UNIQUE}', false, true)",
    f"SELECT pg_replication_origin_session_setup('{UNIQUE}')",
    "SELECT pg_backup_start('mine', true)",
    f"LISTEN {NAME}; NOTIFY {NAME}",
]
_POSTGRESQL = [
    f"SET ROLE {ROLE}",
    f"SET SESSION ROLE {ROLE}",
    f"SET role TO '{ROLE}'",
    f"SET SESSION AUTHORIZATION {ROLE}",
    f"SELECT set_config('role', '{ROLE}', false)",
    f"UPDATE pg_settings SET setting = '{ROLE}' WHERE name = 'application_name'",
    "UPDATE ONLY pg_catalog . pg_settings SET setting = 'x' WHERE name = 'application_name'",
    "WITH x AS (SELECT 1) UPDATE pg_settings SET setting = 'x' WHERE name = 'application_name'",
    "SET my.mine = '1'",
    "SET SESSION my.mine TO 1",
    "SELECT set_config('my.mine', '1', false)",
    "SELECT pg_catalog.set_config('my.mine', '1', 1 = 2)",
    "SELECT \"set_config\"('my.mine', '1', false)",
    "SELECT\"set_config\"('my.mine', '1', false)",
    "WITH x AS MATERIALIZED (SELECT set_config('my.mine', '1', false)) SELECT * FROM x",
    "SELECT 1 WHERE set_config('my.mine', '1', false) = '1'",
    f"UPDATE {TABLE} SET a = a WHERE set_config('my.mine', '1', false) = '1'",
    "EXPLAIN ANALYZE SELECT set_config('my.mine', '1', false)",
    "VALUES (set_config('my.mine', '1', false))",
    "/* a /* nested */ comment */ SET my.mine = '1'",
    "-- a comment\nSET my.mine = '1'",
    "RESET ALL; SET my.mine = '1'",
    "SET TIME ZONE 'Asia/Tokyo'",
    "SET NAMES 'LATIN1'",
    "SET SCHEMA 'pg_catalog'",
    "SET XML OPTION DOCUMENT",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET search_path FROM CURRENT; SET search_path TO pg_catalog",
    "SELECT pg_advisory_lock(4711)",
    "SELECT pg_advisory_lock_shared(47, 11)",
    "SELECT pg_try_advisory_lock(4711)",
    f"CREATE TEMP TABLE {NAME} (a INT)",
    f"CREATE LOCAL TEMPORARY TABLE {NAME} (a INT)",
    f"CREATE TEMP TABLE {NAME} AS SELECT 1 AS a",
    f"CREATE TABLE pg_temp.{NAME} (a INT)",
    f'CREATE TABLE "pg_temp".{NAME} (a INT)',
    f"SELECT 1 AS a INTO TEMP {NAME}",
    f"SELECT 1 AS a INTO TEMPORARY TABLE {NAME}",
    f"CREATE TEMP VIEW {NAME} AS SELECT 1 AS a",
    f"CREATE OR REPLACE TEMP VIEW {NAME} AS SELECT 1 AS a",
    f"CREATE TEMP RECURSIVE VIEW {NAME} (a) AS SELECT 1 UNION ALL SELECT a FROM {NAME} WHERE a < 1",
    f"CREATE VIEW pg_temp.{NAME} AS SELECT 1 AS a",
    f"CREATE TEMP SEQUENCE {NAME}",
    f"CREATE FUNCTION pg_temp.{NAME}() RETURNS INT LANGUAGE SQL AS 'SELECT 1'",
    f"EXPLAIN ANALYZE CREATE TEMP TABLE {NAME} AS SELECT 1",
    f"EXPLAIN(ANALYZE)CREATE TEMP TABLE {NAME} AS SELECT 1",
    f"PREPARE {NAME} AS SELECT 1",
    f'PREPARE"{NAME}"AS SELECT 1',
    f"PREPARE {NAME} (INT) AS SELECT $1",
    f"DECLARE {NAME} CURSOR WITH HOLD FOR SELECT 1",
    f"DECLARE {NAME} SCROLL CURSOR WITH HOLD FOR SELECT 1",
]
_SQLITE = [
    f"ATTACH ':memory:' AS {NAME}",
    f"ATTACH DATABASE '' AS {NAME}",
    f"CREATE TEMP TABLE {NAME} (a)",
    f"CREATE TEMPORARY TABLE IF NOT EXISTS {NAME} (a)",
    f"CREATE TABLE temp.{NAME} (a)",
    f"CREATE TABLE IF NOT EXISTS temp . {NAME} (a)",
    f'CREATE TABLE "temp".{NAME} (a)',
    f"CREATE TABLE 'temp'.{NAME} (a)",
    f"CREATE TABLE [temp].{NAME} (a)",
    f"CREATE TABLE `temp`.{NAME} (a)",
    f'CREATE TABLE"temp".{NAME} (a)',
    f"CREATE TABLE temp.{NAME} AS SELECT 1 AS a",
    f"CREATE TEMP VIEW {NAME} AS SELECT 1",
    f"CREATE VIEW temp.{NAME} AS SELECT 1",
    f"CREATE TEMP TRIGGER {NAME} AFTER INSERT ON {TABLE} BEGIN DELETE FROM {TABLE}; END",
    f"CREATE TRIGGER temp.{NAME} AFTER INSERT ON {TABLE} BEGIN DELETE FROM {TABLE}; END",
    "PRAGMA case_sensitive_like = ON",
    "PRAGMA case_sensitive_like(1)",
    "PRAGMA foreign_keys = OFF",
    "PRAGMA foreign_keys(0)",
    "PRAGMA 'foreign_keys' = 0",
    'PRAGMA "foreign_keys" = 0',
    "PRAGMA main.cache_size = 123",
    "PRAGMA temp.cache_size = 123",
    "/* hidden */ PRAGMA cache_size=123",
    "PRAGMA cache_size -- hidden\n = 123",
    "PRAGMA busy_timeout = 5",
    "PRAGMA synchronous = OFF",
    "PRAGMA query_only = ON",
    "PRAGMA ignore_check_constraints = ON",
    "PRAGMA cell_size_check = ON",
    "PRAGMA[cache_size] = 123",
]
# What they do, a reset undoes; a session that has taken a role is closed instead, and so is one of the third
# kind, where it can be seen that it is one.
STATEMENTS = {"mariadb": _MARIADB, "mysql": _MYSQL, "postgresql": _POSTGRESQL, "": _SQLITE}[SERVER]
ROLES = {"mariadb": _MARIADB_ROLE, "mysql": _ROLE}.get(SERVER, [])
FOR_GOOD = {"mariadb": _FOR_GOOD, "mysql": _MYSQL_FOR_GOOD, "postgresql": _POSTGRESQL_FOR_GOOD, "": []}[
    SERVER
]
# What of this the next visitor finds where no text shows it. MySQL's own reset undoes what profiling does.
LEFT = [one for one in FOR_GOOD if SERVER != "mysql" or one not in _FOR_GOOD]
ALL = [*STATEMENTS, *ROLES, *FOR_GOOD]
# In the middle of a statement that writes, these bring MariaDB 10.11 down.
ONLY_ALONE = {"SET SESSION TRANSACTION READ ONLY", "SET TRANSACTION READ ONLY"}


def set_up(execute: Execute) -> None:
    tear_down(execute)
    for table in (TABLE, WATCHED):
        execute(f"CREATE TABLE {table} (a INT)")
    execute(f"INSERT INTO {TABLE} VALUES (1)")
    if MYSQL:
        execute(f"CREATE ROLE IF NOT EXISTS {ROLE}")
        execute(f"GRANT ALL PRIVILEGES ON *.* TO {ROLE}")
        if MARIADB:
            execute("INSTALL PLUGIN IF NOT EXISTS metadata_lock_info SONAME 'metadata_lock_info'")
        else:
            execute(f"GRANT {ROLE} TO CURRENT_USER")
            execute(f"CREATE RESOURCE GROUP {GROUP} TYPE = USER")
        with suppress(Error):
            # It may be there.
            execute(f"SELECT 1 INTO OUTFILE '{UNIQUE}'")
        execute("SET lock_wait_timeout = 5")
    elif POSTGRESQL:
        execute("CREATE EXTENSION IF NOT EXISTS dblink")
        execute(f"CREATE ROLE {ROLE} SUPERUSER")
        execute(f"SELECT pg_replication_origin_create('{UNIQUE}')")


def tear_down(execute: Execute) -> None:
    for table in (TABLE, WATCHED):
        execute(f"DROP TABLE IF EXISTS {table}")
    if not MYSQL and not POSTGRESQL:
        return
    execute(f"DROP PROCEDURE IF EXISTS {ROUTINE}")
    execute(f"DROP FUNCTION IF EXISTS {ROUTINE}")
    execute(f"DROP ROLE IF EXISTS {ROLE}")
    if SERVER == "mysql":
        with suppress(Error):
            # It isn't there.
            execute(f"DROP RESOURCE GROUP {GROUP} FORCE")
    if POSTGRESQL:
        execute(
            f"SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname = '{UNIQUE}'"
        )
