"""Which statements change a session: by family, hidden or only quoted."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_db_pooling.drivers import rules
from django_db_pooling.drivers.rules import MYSQL, POSTGRESQL, SQLITE, UNWRITTEN, Traits

FAMILIES = {"mysql": MYSQL, "postgresql": POSTGRESQL, "sqlite": SQLITE}


def traits(family: str, sql: str) -> Traits:
    return FAMILIES[family].traits(sql)


CHANGES = {
    "mysql": [
        "SET x = 1",
        "  set  names utf8",
        "(SET a = 1",
        "/* a comment */ SET a = 1",
        "-- a comment\nSET a = 1",
        "# a comment\nSET a = 1",
        "/*!40101 SET NAMES utf8 */",
        "/*M!100100 SET x = 1 */",
        "SELECT 1; SET a = 2",
        "SELECT '\\\\'; SET a = 2",
        "USE other",
        "CALL procedure()",
        "BEGIN NOT ATOMIC SET @a = 1; END",
        "SELECT GET_LOCK('a', 1)",
        "DO get_lock ('a', 1)",
        "SELECT @a := 1",
        "SELECT @`a` := 1",
        "SELECT 1 INTO @x",
        "SELECT 1 INTO@x",
        "SELECT 1 INTO\n@`x`",
        "EXPLAIN FORMAT=JSON INTO @x SELECT 1",
        "GET DIAGNOSTICS @x = ROW_COUNT",
        "GET CURRENT DIAGNOSTICS CONDITION 1 @x = MESSAGE_TEXT",
        "LOAD DATA INFILE 'a' INTO TABLE t (@x) SET a = @x",
        "LOAD XML INFILE 'a' INTO TABLE t (a, @x)",
        "BINLOG 'a'",
        "CREATE TEMPORARY TABLE t (a INT)",
        "CREATE OR REPLACE TEMPORARY TABLE t (a INT)",
        "LOCK TABLES t READ",
        "LOCK TABLE t WRITE",
        "FLUSH TABLES WITH READ LOCK",
        "FLUSH TABLES t FOR EXPORT",
        "HANDLER t OPEN",
        "PREPARE a FROM 'SELECT 1'",
        "EXECUTE IMMEDIATE 'SET @a = 1'",
        "SELECT SQL_CALC_FOUND_ROWS * FROM t",
        "UPDATE t SET a = LAST_INSERT_ID(a + 1)",
        "IF 1 = 1 THEN SET @a = 1; END IF",
        "CASE 1 WHEN 1 THEN SET @a = 1; END CASE",
        "FOR i IN 1..1 DO SET @a = i; END FOR",
        "BACKUP LOCK t",
        "SELECT 1 --\r'\n, @a := 1 -- '",
        "SELECT 1 --\x01'\n, @a := 1 -- '",
        # With ANSI_QUOTES, with NO_BACKSLASH_ESCAPES.
        "SELECT \"get_lock\"('a', 1)",
        "SELECT '\\', @a := 1, '\\'",
        "SELECT '\\', @a := 1",
        # A comment that is code, or not.
        "SELECT 1 /*!99999 ' */ , @a := 1 /* ' */",
    ],
    "postgresql": [
        "SET x = 1",
        "SET SESSION x = 1",
        "set search_path to tenant",
        "SET ROLE x",
        "SET SESSION AUTHORIZATION x",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "RESET ALL",
        "DISCARD TEMP",
        "LISTEN a",
        "LOAD 'auto_explain'",
        "SELECT set_config('a', 'b', false)",
        "SELECT set_config ( %s, %s, %s )",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_lock_shared(1)",
        "CREATE TEMP TABLE a (b INT)",
        "CREATE LOCAL TEMPORARY TABLE a (b INT)",
        "CREATE TEMP TABLE a (b INT) ON COMMIT DELETE ROWS",
        "CREATE TEMP TABLE a (b TEXT DEFAULT ' ON COMMIT DROP')",
        'CREATE TEMP TABLE " ON COMMIT DROP" (b INT)',
        "CREATE TEMP TABLE a (b INT) -- ON COMMIT DROP",
        "CREATE TEMP TABLE a (b INT); SELECT 1 ON COMMIT DROP",
        "CREATE TABLE pg_temp.a (b INT)",
        "SELECT 1 INTO TEMP a",
        "DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT 1",
        "PREPARE a AS SELECT 1",
        "DO $$ BEGIN PERFORM set_config('a', 'b', false); END $$",
        "CALL procedure()",
        "SELECT 1; /* a comment */ SET a = 1",
        "SELECT E'\\\\'; SET a = 1",
        "SELECT 'a\\'; SET a = 1",
        "/* a /* b */ c */ SET a = 1",
        "EXPLAIN ANALYZE CREATE TEMP TABLE a AS SELECT 1",
        "EXPLAIN (ANALYZE, VERBOSE) CREATE TEMP TABLE a AS SELECT 1",
        "EXPLAIN(ANALYZE)CREATE TEMP TABLE a AS SELECT 1",
        "SELECT \"set_config\"('a', 'b', false)",
        "SELECT\"set_config\"('a', 'b', false)",
        'CREATE TABLE "pg_temp".a (b INT)',
        'SELECT 1 INTO TEMP"a"',
        'PREPARE"a"AS SELECT 1',
        'DECLARE"c"CURSOR WITH HOLD FOR SELECT 1',
        "UPDATE\"pg_settings\"SET setting = 'a'",
        'SELECT U&"pg_advisory\\005flock"(1)',
        "UPDATE pg_settings SET setting = 'a' WHERE name = 'b'",
        "UPDATE ONLY pg_catalog . pg_settings SET setting = 'a' WHERE name = 'b'",
        "WITH a AS (SELECT 1) UPDATE pg_settings SET setting = 'a' WHERE name = 'b'",
        "CREATE TABLE pg_temp_3.a (b INT)",
        "SELECT 1 AS a$b$; SET a = 1; SELECT 1 AS c$b$",
        "SELECT $A$ x $a$ y $A$; SET a = 1; SELECT $a$ $A$ $a$",
        "-- a comment\rSET a = 1",
        "/* /* */ SELECT 1 */ SET a = 1",
        "SELECT 1; /* ' /* ' */ */ SET a = 1",
        "SET local.a = 1",
        'SET "transaction" . a TO 1',
        "PREPARE transaction AS SELECT 1",
        "SELECT 1 AS \u20ace'a\\'; SET a = 1 -- '",
        "SELECT set_config(set_config('a', 'b', false), 'c', true)",
        "SELECT set_config('a', 'b', false), (1, 2, true)",
        "SELECT 'a; SET a = 1",
    ],
    "sqlite": [
        "PRAGMA foreign_keys = OFF",
        "PRAGMA foreign_keys=ON",
        "pragma cache_size(100)",
        "PRAGMA main.journal_mode = wal",
        "ATTACH 'x' AS y",
        "DETACH y",
        "CREATE TEMP TABLE x (a)",
        "CREATE TABLE temp.x (a)",
        "CREATE TABLE IF NOT EXISTS temp.x (a)",
        "SELECT load_extension('x')",
        'CREATE TABLE "temp".x (a)',
        "CREATE TABLE [temp].x (a)",
        "CREATE TABLE 'temp'.x (a)",
        "CREATE VIRTUAL TABLE temp.x USING fts5(a)",
        "EXPLAIN PRAGMA cache_size = 1",
        "PRAGMA ignore_check_constraints = ON",
        "PRAGMA main.cell_size_check(1)",
        "PRAGMA[cache_size] = 1",
        'CREATE TABLE"temp".x (a)',
        "CREATE TABLE IF NOT EXISTS[temp].x (a)",
    ],
}
# What no reset undoes.
LASTS = {
    "mysql": [
        "SET ROLE x",
        "SET ROLE ALL EXCEPT x",
        "/* a comment */ set  role `x`",
        "SELECT 1; SET ROLE NONE",
        "SET RESOURCE GROUP x",
        "SET RESOURCE GROUP x FOR 1",
        "SET profiling = 1",
        "SET SESSION a = 1, @@SESSION.profiling := 1",
    ],
    "postgresql": [
        "LOAD 'auto_explain'",
        "LOAD $$auto_explain$$",
        "LOAD E'a\\'b'",
        "LOAD U&'a'",
        "LISTEN a",
        'LISTEN"a"',
        'SET"seed"TO 0.5',
        "SELECT setseed(0.5)",
        "SET seed = 0.5",
        "SET SESSION seed TO 0.5",
        "SELECT dblink_connect('a', 'b')",
        "SELECT dblink_connect_u('a', 'b')",
        "SELECT pg_replication_origin_session_setup('a')",
        "SELECT pg_create_physical_replication_slot('a', false, true)",
        "SELECT pg_copy_logical_replication_slot('a', 'b', true)",
        "SELECT pg_backup_start('a')",
        "SELECT pg_start_backup('a', false, false)",
    ],
    "sqlite": [],
}
for family, lasting in LASTS.items():
    CHANGES[family] += lasting
NO_CHANGES = {
    "mysql": [
        "SELECT 1",
        "SELECT 'SET x'",
        'SELECT "; SET x = 1"',
        "SELECT ';SET a = 1'",
        "SELECT 'it''s; SET a = 1'",
        "SELECT 'a\\'; SET b = 1'",
        "SELECT 5--1",
        "-- SET x = 1\nSELECT 1",
        "# SET a\nSELECT 1",
        "SELECT 1 /* ; SET a = 1 */",
        "SELECT 1 /* ; SET a = 1",
        "SELECT `SET`, `GET_LOCK(`",
        "UPDATE t SET a = 1",
        "INSERT INTO t VALUES ('GET_LOCK(')",
        "INSERT INTO t (a) VALUES (%s) ON DUPLICATE KEY UPDATE a = VALUES(a)",
        "SET STATEMENT max_statement_time = 1 FOR SELECT 1",
        "SELECT LAST_INSERT_ID()",
        "UPDATE t SET role = 'x'",
        "UPDATE t SET profiling = 1",
        "INSERT INTO t SET role = 'x'",
        "SELECT '@x' INTO OUTFILE 'a'",
        "LOAD DATA INFILE '@x' INTO TABLE t (a)",
        "GET DIAGNOSTICS",
        "SELECT LAST_INSERT_ID( )",
        "SELECT @a",
        "START TRANSACTION",
        "SAVEPOINT s1",
        "SELECT a FROM useful",
        "SETTLE",
    ],
    "postgresql": [
        "SET LOCAL x = 1",
        "SET TRANSACTION READ ONLY",
        "SET CONSTRAINTS ALL IMMEDIATE",
        "SELECT set_config('a', 'b', true)",
        "SELECT set_config('a', %s, true)",
        "SELECT set_config('a', %(name)s, TRUE )",
        "SELECT pg_catalog.set_config('a', coalesce(%(name)s, lower(b)), true), f(false)",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT pg_advisory_unlock(1)",
        "SELECT 'SET a'",
        "SELECT $$;SET a = 1$$",
        "SELECT $x$;SET a = 1$$; SET b = 1$x$",
        'SELECT "set_config("',
        "SELECT E'\\';SET a = 1'",
        "PREPARE TRANSACTION 'x'",
        "DECLARE c NO SCROLL CURSOR FOR SELECT 1",
        "CREATE TEMP TABLE a (b INT) ON COMMIT DROP",
        "create local temporary table a\non commit\ndrop as select 1",
        "UPDATE t SET a = 1",
        "DELETE FROM do",
        "UPDATE t SET seed = 1",
        "SELECT a FROM pg_temperatures",
        "SELECT a AS load, 'b' FROM t",
        "SELECT 1 -- ; SET a = 1",
    ],
    "sqlite": [
        "PRAGMA foreign_keys",
        "PRAGMA foreign_keys;",
        "PRAGMA table_info(x)",
        "PRAGMA table_xinfo('x')",
        "PRAGMA index_list(x)",
        "PRAGMA main.index_info(x)",
        "PRAGMA foreign_key_check",
        "PRAGMA foreign_key_list(x)",
        "PRAGMA integrity_check",
        "PRAGMA quick_check(1)",
        "PRAGMA optimize(0x10002)",
        'SELECT "a"AS b, "PRAGMA"',
        "SELECT 'ATTACH'",
        "BEGIN IMMEDIATE",
    ],
}
ALL = [(family, sql, answer) for table, answer in ((CHANGES, True), (NO_CHANGES, False)) for family in table
       for sql in table[family]]  # fmt: skip


@pytest.mark.parametrize(("family", "sql", "answer"), ALL)
def test_by_text(family: str, sql: str, answer: bool) -> None:
    assert traits(family, sql).changes is answer
    assert traits(family, sql).changes is answer
    assert traits(family, f"\n {sql.swapcase()} ").changes is answer


@pytest.mark.parametrize(("family", "sql", "answer"), ALL)
def test_what_lasts_is_told_from_what_a_reset_undoes(family: str, sql: str, answer: bool) -> None:
    assert traits(family, sql).lasts is (sql in LASTS[family])


@pytest.mark.parametrize("sql", ["SELECT LASTVAL(a)", "SELECT PREVIOUS VALUE FOR a", "SHOW WARNINGS"])
def test_what_asks_for_the_traces_of_the_last_statement(sql: str) -> None:
    assert traits("mysql", sql).asks
    assert not traits("mysql", f"SELECT '{sql}'").asks


@given(st.sampled_from(ALL), st.text(alphabet=" \n\t"), st.text(alphabet="abc;*SET=1 "))
def test_white_space_and_comments_hide_nothing(case: tuple[str, str, bool], space: str, words: str) -> None:
    family, sql, answer = case
    comment = f"/*{words.replace('*', '').lstrip('!')}*/"
    if not sql.startswith("("):
        sql = f"{space}{comment}{space}{sql}"
    assert traits(family, sql).changes is answer


@pytest.mark.parametrize("family", CHANGES)
@given(st.text(alphabet="a;= SETx1\n()@:*/-#"))
def test_a_literal_triggers_nothing(family: str, words: str) -> None:
    assert not traits(family, f"SELECT '{words}' AS a").changes


def test_what_stands_before_a_statement_is_read_once() -> None:
    for words in ("SET STATEMENT a = 1 FOR ", "EXPLAIN ", "(a) "):
        assert not traits("mysql", words * 500 + "SELECT 1").changes
        assert traits("mysql", words * 500 + "CALL procedure()").changes


def test_without_rules_each_statement_changes_the_session() -> None:
    assert UNWRITTEN.traits("SELECT 1").changes


def test_what_is_kept_has_an_end() -> None:
    for number in range(2 * rules.MAX_KNOWN + 10):
        assert not traits("mysql", f"SELECT {number}").changes
    assert not traits("mysql", "SELECT '" + "a" * rules.MAX_KEY + "'").changes
    for known in (MYSQL.known, MYSQL._known_before):
        assert len(known) <= rules.MAX_KNOWN
        assert all(len(key) <= rules.MAX_KEY for key in known if isinstance(key, str))


# What is written by others may be inside, and all that can have no end.
PARTS = [
    *("'", '"', "`", "[", "$", "$a$ ", "$$", "\\'", "''", "/*", "*/", "/* ", "--", "#", "(", ")", ";", " "),
    *("; ", "set_config(", "set_config(a,", "SELECT ", "SET STATEMENT ", "EXPLAIN ", "@", "INTO ", "U&"),
    *("CREATE a ", "GET_LOCK ", "LOAD DATA ", "FLUSH ", "PRAGMA a.", "pg_temp", "SELECT 'a', ", "a_b, "),
]


@pytest.mark.parametrize("family", CHANGES)
@pytest.mark.parametrize("part", PARTS)
def test_the_time_that_reading_takes_is_linear(family: str, part: str) -> None:
    """100 KB: what takes quadratic time takes much longer."""
    for begin in ("", "SELECT ", "'"):
        text = begin + part * (100_000 // len(part))
        began = time.process_time()
        traits(family, text)
        assert time.process_time() - began < 2, text[:100]


@pytest.mark.parametrize("family", ["mysql", "postgresql"])
@pytest.mark.parametrize("part", ["'a', ", "%s, ", "lorem ipsum dolor "])
def test_a_long_statement_is_not_copied(family: str, part: str) -> None:
    text = f"INSERT INTO t VALUES ({part * (1_000_000 // len(part))}1)"
    tracemalloc.start()
    try:
        assert traits(family, text) is rules.NOTHING
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_what_is_executed_again_outlives_what_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(MYSQL, "_is_harmless", lambda text: looks.append(text) or True)
    again = ["SELECT again", "SELECT again" + " " * rules.MAX_KEY]
    for number in range(3 * rules.MAX_KNOWN):
        for text in [f"SELECT 1 /* {number} */", *again]:
            traits("mysql", text)
    assert [looks.count(text) for text in again] == [1, 1]


@pytest.mark.parametrize(
    "family, sql, locks",
    [
        ("mysql", "SELECT GET_LOCK('a', 1), get_lock ('b', 1)", 2),
        ("mysql", "SELECT RELEASE_LOCK('a')", -1),
        ("mysql", "LOCK TABLES t READ", 1),
        ("mysql", "UNLOCK TABLES", -1),
        ("mysql", "BACKUP LOCK t; BACKUP UNLOCK", 0),
        ("mysql", "SELECT 'GET_LOCK(1, 1)' /* GET_LOCK(2, 2) */", 0),
        ("mysql", "SELECT * FROM t FOR UPDATE", 0),
        ("postgresql", "SELECT pg_try_advisory_lock_shared(1)", 1),
        ("postgresql", "SELECT pg_advisory_xact_lock(1)", 0),
        ("postgresql", "SELECT pg_advisory_unlock_shared(1)", -1),
        ("postgresql", "LISTEN a; LISTEN b; UNLISTEN a", 1),
        ("postgresql", "LOCK TABLE t", 0),
        ("sqlite", "BEGIN EXCLUSIVE", 0),
    ],
)
def test_locks_of_the_session_are_counted(family: str, sql: str, locks: int) -> None:
    assert traits(family, sql).locks == locks


@pytest.mark.parametrize(
    "family, sql",
    [
        ("mysql", "SELECT RELEASE_ALL_LOCKS()"),
        ("postgresql", "SELECT pg_advisory_unlock_all()"),
        ("postgresql", "UNLISTEN *"),
        ("postgresql", "DISCARD ALL"),
    ],
)
def test_all_of_them_can_be_given_back_at_once(family: str, sql: str) -> None:
    assert traits(family, sql).locks < -1000
