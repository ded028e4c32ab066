"""Which statements change the session that they run in, so that its next user would notice.

Looks at the text: a statement's first words, and calls of functions that are known for it. What
comments say and what string literals contain doesn't count. In doubt the answer is yes: that costs
a reset, while a wrong no costs somebody their data.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

# Answers are kept for so many statements, none of them longer than this (characters).
MOST_KEPT = 4096
LONGEST_KEPT = 2000


class _Rules(NamedTuple):
    """``skipped``: what is taken out first. ``starts``: how a statement begins. ``contains``: anywhere."""

    skipped: re.Pattern[str]
    starts: re.Pattern[str]
    contains: re.Pattern[str]


def _rules(skipped: str, starts: str, contains: str) -> _Rules:
    flags = re.IGNORECASE | re.DOTALL
    # Spaces in the patterns stand for any white space.
    starts, contains = (pattern.replace(" ", r"\s+") for pattern in (starts, contains))
    return _Rules(
        re.compile(skipped, flags),
        re.compile(rf"[\s(]*(?:{starts})\b", flags),
        re.compile(contains, flags),
    )


_BLOCK_COMMENT = r"/\*.*?(?:\*/|\Z)"

# https://dev.mysql.com/doc/refman/8.4/en/mysql-reset-connection.html lists what a session consists of,
# https://mariadb.com/kb/en/sql-statements/ has the statements. Comments that begin with /*! or /*M! are code.
_MYSQL = _rules(
    skipped=(
        r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.|\"\")*\"|`[^`]*`"
        r"|#[^\n]*|--(?:[ \t][^\n]*|(?=\n|\Z))|/\*(?!M?!).*?(?:\*/|\Z)|/\*M?!\d*|\*/"
    ),
    starts=(
        r"SET(?! STATEMENT\b)|USE|CALL|PREPARE|EXECUTE|DEALLOCATE|DROP PREPARE|HANDLER|BEGIN NOT ATOMIC"
        r"|CREATE(?: OR REPLACE)? TEMPORARY|(?:UN)?LOCK (?:INSTANCE|TABLES?)|FLUSH .*(?:READ LOCK|FOR EXPORT)"
    ),
    contains=(
        r"\bGET_LOCK\s*\(|@[\w$.']*\s*:=|\bINTO @"
        r"|\bSQL_CALC_FOUND_ROWS\b|\bLAST_INSERT_ID\s*\(\s*[^\s)]"
    ),
)

# https://www.postgresql.org/docs/current/sql-discard.html lists what a session consists of.
_POSTGRESQL = _rules(
    skipped=(
        r"\bE'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"[^\"]*\"|\$(\w*)\$.*?\$\1\$"
        r"|--[^\n]*|" + _BLOCK_COMMENT
    ),
    starts=(
        r"SET(?! (?:LOCAL|TRANSACTION|CONSTRAINTS)\b)|RESET|DISCARD|LISTEN|LOAD|CALL|DO"
        r"|PREPARE(?! TRANSACTION\b)|DECLARE .* WITH HOLD"
        r"|CREATE(?: OR REPLACE)?(?: LOCAL| GLOBAL)? TEMP(?:ORARY)?"
    ),
    contains=(
        r"\bset_config\s*\((?![^()]*,\s*(?:true|'t(?:rue)?'|'on')\s*\))|\bpg_(?:try_)?advisory_lock"
        r"|\bpg_temp\b|\bINTO (?:LOCAL |GLOBAL )?TEMP(?:ORARY)?\b|\bsetseed\s*\(|\bdblink_connect"
    ),
)

# https://www.sqlite.org/pragma.html: those that only tell something.
_SQLITE = _rules(
    skipped=r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|" + _BLOCK_COMMENT,
    starts=(
        r"PRAGMA(?! (?:\w+\s*\.\s*)?"
        r"(?:\w+\s*(?:;|\Z)|(?:table|index)_x?(?:info|list)|foreign_key_|\w+_check|optimize))"
        r"|ATTACH|DETACH|CREATE TEMP(?:ORARY)?"
    ),
    contains=r"\bload_extension\s*\(|\bCREATE \w+ (?:IF NOT EXISTS )?temp\s*\.",
)

_BY_VENDOR = {"mysql": _MYSQL, "postgresql": _POSTGRESQL, "sqlite": _SQLITE}

_known: dict[tuple[str, str], bool] = {}


def changes_session(vendor: str, sql: Any) -> bool:
    """Whether a statement, or one of several in a text, changes its session as far as its text tells.

    ``vendor``: of Django's wrapper. ``sql``: what cursors execute, also bytes or psycopg's objects.
    """
    try:
        return _known[vendor, sql]
    except (KeyError, TypeError):
        pass
    rules = _BY_VENDOR.get(vendor)
    text = _text(sql)
    answer = rules is not None and _changes(rules, text)
    if isinstance(sql, str) and len(sql) <= LONGEST_KEPT:
        if len(_known) >= MOST_KEPT:
            _known.clear()
        _known[vendor, sql] = answer
    return answer


def _text(sql: Any) -> str:
    if isinstance(sql, str):
        return sql
    if isinstance(sql, bytes | bytearray):
        return sql.decode(errors="replace")
    as_string = getattr(sql, "as_string", None)
    return str(sql) if as_string is None else str(as_string(None))


def _changes(rules: _Rules, text: str) -> bool:
    code = rules.skipped.sub(lambda found: "''" if found[0][0] not in "/*-#" else " ", text)
    if rules.contains.search(code):
        return True
    return any(rules.starts.match(statement) for statement in code.split(";"))
