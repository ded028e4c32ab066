"""Statements made up by a grammar: some change their session, some only look so, all in odd spelling."""

from __future__ import annotations

import re

from hypothesis import strategies as st

from tests.behaviour.conftest import MARIADB, MYSQL, POSTGRESQL

# What a lexer may stumble over.
ODD = "'\"`$\\;@-/*#[]\n\r a"
CALLS = "; SET @mine := 1, set_config(x), pg_temp.a; SET my.mine = 1 "

if MYSQL:
    GAPS = ["\n", "\t", "/**/", "/* ' */", '/* " */', "# '\n", "-- `\n", "--\r'\n", "--\t; SET @mine = 1\n"]
    CHANGES = [
        "SET @mine = {literal}",
        "SET @{name} = {literal}",
        "SELECT {literal} , @mine := {literal}",
        "SELECT @{name} := {literal} , {literal} AS {name}",
        "SELECT {literal} INTO @mine",
        "( SELECT {literal} ) INTO @{name}",
        "DO @mine := {literal}",
        "SELECT 1 /*! , @mine := {literal} */",
        "/*! SET @mine = {literal} */",
        "SELECT {literal} , GET_LOCK ( 'mine' , 0 )",
        "SELECT {literal} , `get_lock` ( 'mine' , 0 )",
        "DO GET_LOCK( 'mine' , 0 ) , {literal}",
        "CREATE TEMPORARY TABLE mine SELECT {literal} AS a",
        "PREPARE mine FROM 'SELECT 1'",
        "SET NAMES latin1",
        "SET SESSION time_zone = '+05:00'",
        "USE information_schema",
        "WITH one AS ( SELECT {literal} AS a ) SELECT @mine := a FROM one",
    ]
    if MARIADB:
        CHANGES += [
            "VALUES ( {literal} ) , ( @mine := 1 )",
            "EXECUTE IMMEDIATE 'SET @mine = 1'",
            "SET STATEMENT max_statement_time = 5 FOR SELECT @mine := {literal}",
        ]
    else:
        CHANGES += [
            "VALUES ROW ( {literal} ) , ROW ( @mine := 1 )",
            "VALUES ROW ( {literal} ) INTO @mine",
            "EXPLAIN FORMAT = JSON INTO @mine SELECT {literal}",
        ]
    HARMLESS = [
        "SELECT {literal}",
        "SELECT {literal} AS {name} , {literal}",
        "SELECT 1 /* {literal} */",
        "SELECT '@mine := 1' , {literal}",
        "SELECT 5--1",
        "SELECT @mine , {literal}",
        "DO {literal}",
    ]
    # What the settings of a project may say.
    MODES = ["", "ANSI_QUOTES", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES,NO_BACKSLASH_ESCAPES"]
elif POSTGRESQL:
    GAPS = ["\n", "\t", "\f", "/**/", "/* ' */", '/* " */', "/* $$ */", "/* /* ' */ */", "-- '\n", "-- $a$\r"]
    CHANGES = [
        "SET my.mine = {literal}",
        "SET SESSION my.mine TO {literal}",
        "SET local.mine = {literal}",
        "SET transaction . mine TO {literal}",
        'SET "constraints" . mine TO {literal}',
        "SET LOCAL my.mine = '1' ; SET my.mine = {literal}",
        "SELECT {literal} , set_config ( 'my.mine' , {literal} , false )",
        "SELECT {literal} AS {name} , \"set_config\" ( 'my.mine' , {literal} , 1 = 2 )",
        "SELECT U&\"set\\005fconfig\" ( 'my.mine' , {literal} , false )",
        "SELECT set_config ( 'my.mine' , {literal} , true and false ) , ( 1 , 2 , true )",
        "SELECT set_config ( set_config ( 'my.mine' , 'x.y' , false ) , {literal} , true )",
        "SELECT {literal} , pg_advisory_lock ( 4711 )",
        "SELECT {literal} , pg_try_advisory_lock_shared ( 4711 )",
        "CREATE TEMP TABLE mine AS SELECT {literal} AS a",
        "CREATE TABLE pg_temp . mine AS SELECT {literal} AS {name}",
        'CREATE TABLE "pg_temp" . mine ( a INT )',
        "SELECT {literal} AS {name} INTO TEMP mine",
        "SELECT {literal} AS {name} INTO LOCAL TEMPORARY TABLE mine",
        "PREPARE mine AS SELECT {literal}",
        "PREPARE transaction AS SELECT {literal}",
        "DECLARE mine CURSOR WITH HOLD FOR SELECT {literal}",
        "LISTEN mine",
        "EXPLAIN ANALYZE SELECT set_config ( 'my.mine' , {literal} , false )",
        "SELECT 1 AS a$b$ ; SET my.mine = {literal} ; SELECT 1 AS c$b$",
        "SELECT $A$ {call} $a$ {call} $A$ ; SET my.mine = '1' ; SELECT $a$ $A$ $a$",
    ]
    HARMLESS = [
        "SELECT {literal}",
        "SELECT {literal} AS {name} , {literal}",
        "SELECT 1 /* {call} */",
        "SELECT set_config ( 'my.mine' , {literal} , true )",
        "SET LOCAL my.mine = {literal}",
        "SELECT 2 *-1 , 'SET my.mine = 1'",
    ]
    MODES = [""]
else:
    GAPS = ["\n", "\t", "\f", "/**/", "/* ' */", '/* " */', "/* [ */", "-- '\n", "-- [\n"]
    CHANGES = [
        "PRAGMA cache_size = 123",
        "PRAGMA cache_size ( 123 )",
        "PRAGMA main . cache_size = 123",
        'PRAGMA "cache_size" = 123',
        "PRAGMA [cache_size] = 123",
        "CREATE TEMP TABLE mine AS SELECT {literal} AS a",
        "CREATE TABLE temp . mine AS SELECT {literal} AS {name}",
        'CREATE TABLE IF NOT EXISTS "temp" . mine AS SELECT {literal} AS {name}',
        "CREATE TABLE 'temp' . mine ( a )",
        "CREATE VIEW [temp] . mine AS SELECT {literal} AS {name}",
        "ATTACH ':memory:' AS {name}",
    ]
    HARMLESS = [
        "SELECT {literal}",
        "SELECT {literal} AS {name} , {literal}",
        "SELECT 1 /* {call} */",
        "PRAGMA cache_size",
    ]
    MODES = [""]


def _quoted(quote: str, text: str, closing: str = "") -> str:
    closing = closing or quote
    return quote + text.replace(closing, closing + closing) + closing


def _literals(mode: str) -> st.SearchStrategy[str]:
    odd = st.text(ODD, max_size=8) | st.just(CALLS)
    styles = [st.just("1")]
    if POSTGRESQL:
        styles += [
            odd.map(lambda text: _quoted("'", text)),
            odd.map(lambda text: "E" + _quoted("'", text.replace("\\", "\\\\"))),
            odd.map(lambda text: "e'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"),
            odd.map(lambda text: "N" + _quoted("'", text)),
            odd.map(lambda text: f"$a${text.replace('$', '')}$a$"),
            odd.map(lambda text: f"$${text.replace('$', '')}$$"),
            st.just("$A$ $a$ ' $A$"),
        ]
    elif MYSQL and "NO_BACKSLASH" not in mode:
        quotes = "'" if "ANSI" in mode else "'\""
        for quote in quotes:
            styles += [
                odd.map(lambda text, quote=quote: _quoted(quote, text.replace("\\", "\\\\"))),  # type: ignore[misc]
                odd.map(  # type: ignore[misc]
                    lambda text, quote=quote: (
                        quote + text.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote
                    )
                ),
            ]
    else:
        styles.append(odd.map(lambda text: _quoted("'", text)))
        if MYSQL and "ANSI" not in mode:
            styles.append(odd.map(lambda text: _quoted('"', text)))
    return st.one_of(styles)


def _names(mode: str) -> st.SearchStrategy[str]:
    odd = st.text(ODD, min_size=1, max_size=8).map(lambda text: f"a{text}b") | st.just(f"a{CALLS}b")
    if MYSQL:
        styles = [odd.map(lambda text: _quoted("`", text))]
        if "ANSI" in mode:
            styles.append(odd.map(lambda text: _quoted('"', text)))
    else:
        styles = [odd.map(lambda text: _quoted('"', text))]
    if not MYSQL and not POSTGRESQL:
        styles += [
            odd.map(lambda text: _quoted("`", text)),
            odd.map(lambda text: f"[{text.replace(']', '')}]"),
        ]
    return st.one_of(styles)


@st.composite
def texts(draw: st.DrawFn, mode: str) -> str:
    """One statement, or where the driver takes several at once, some of them."""
    most = 3 if MYSQL or POSTGRESQL else 1
    spelling = st.sampled_from([str, str.swapcase, str.lower])
    statements = []
    for _ in range(draw(st.integers(1, most))):
        template = draw(st.sampled_from(CHANGES) | st.sampled_from(HARMLESS))
        spell = draw(spelling)
        pieces = []
        for piece in re.split(r"(\{\w+\}| )", template):
            if piece == "{literal}":
                pieces.append(draw(_literals(mode)))
            elif piece == "{name}":
                pieces.append(draw(_names(mode)))
            elif piece == "{call}":
                pieces.append(CALLS.strip())
            elif piece == " ":
                pieces.append(draw(st.just(" ") | st.sampled_from(GAPS)))
            else:
                pieces.append(piece if re.search(r"['\"$\\]", piece) else spell(piece))
        around = st.just("") | st.sampled_from(GAPS)
        statements.append(draw(around) + "".join(pieces) + draw(around))
    return ";".join(statements)
