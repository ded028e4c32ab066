"""What a statement does to the state of its session, by its text, and what follows from that.

In doubt a statement changes the session: that costs a reset, while a wrong no shows one user's data to
another. The contents of comments and string literals don't count.
"""

from __future__ import annotations

import re
import time
from typing import Any, NamedTuple

from django.db.transaction import TransactionManagementError

from django_db_pooling.backend.base import LeaseHolder
from django_db_pooling.process import fork

# Size of the cache, and the longest statement in it (characters).
MAX_CACHED = 4096
MAX_CACHED_LENGTH = 2000


class _Rules(NamedTuple):
    """Patterns. ``skipped``: what is taken out first. A statement changes the session if it ``starts`` so,
    or ``contains`` this; if it ``lasts``, no reset undoes that. It ``asks`` for what the session's last
    statement has left. Of the session's ``locks`` it takes ``one``, gives one ``back``, or ``all``.
    """

    skipped: re.Pattern[str]
    starts: re.Pattern[str]
    contains: re.Pattern[str]
    lasts: re.Pattern[str]
    asks: re.Pattern[str]
    locks: re.Pattern[str]
    # Opening quotes of identifiers.
    quotes: str

    def replacement(self, found: re.Match[str]) -> str:
        text = found[0]
        if text[0] in self.quotes:
            # A quoted name stays a name, also where no space is around it.
            start, end = found.span()
            before, after = found.string[max(start - 1, 0) : start], found.string[end : end + 1]
            name = re.sub(r"\W", "_", text[1:-1])
            return f"{' ' * before.isalnum()}{name}{' ' * after.isalnum()}"
        return " " if text[0] in "/*-#" else "''"


# What may come before a statement that is executed.
_EXPLAINING = r"SET\s+STATEMENT\b.*?\bFOR\b|EXPLAIN|ANALYZE|ANALYSE|VERBOSE|QUERY\s+PLAN|\([^()]*\)"


def _rules(
    skipped: str, starts: str, contains: str, lasts: str, asks: str, locks: str, quotes: str
) -> _Rules:
    flags = re.IGNORECASE | re.DOTALL
    # Spaces in the patterns stand for any white space.
    starts, contains, lasts, asks, locks = (
        pattern.replace(" ", r"\s+") for pattern in (starts, contains, lasts, asks, locks)
    )
    return _Rules(
        re.compile(skipped, flags),
        re.compile(rf"[\s(]*(?:(?:{_EXPLAINING})\s*)*+(?:{starts})\b", flags),
        re.compile(contains, flags),
        re.compile(lasts, flags),
        re.compile(asks, flags),
        re.compile(locks, flags),
        quotes,
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
        r"|IF|CASE|FOR|WHILE|REPEAT|LOOP|BACKUP|BINLOG"
        r"|CREATE(?: OR REPLACE)? TEMPORARY|(?:UN)?LOCK (?:INSTANCE|TABLES?)|FLUSH .*(?:READ LOCK|FOR EXPORT)"
    ),
    contains=(
        r"\bGET_LOCK\s*\(|@[\w$.']*\s*:=|\bINTO\s*@"
        r"|\b(?:GET (?:\w+ )?DIAGNOSTICS|LOAD (?:DATA|XML))\b[^;]*@"
        r"|\bSQL_CALC_FOUND_ROWS\b|\bLAST_INSERT_ID\s*\(\s*[^\s)]"
    ),
    # COM_RESET_CONNECTION resets none of them; of profiling MariaDB resets what the variable says.
    lasts=r"(?:\A|;)[\s(]*SET (?:(?:ROLE|RESOURCE GROUP)\b|[^;]*\bprofiling\b)",
    asks=(
        r"\b(?:LAST_INSERT_ID|FOUND_ROWS|ROW_COUNT)\s*\(\s*\)"
        r"|\bSHOW (?:COUNT\s*\(\s*\*\s*\) )?(?:WARNINGS|ERRORS)\b"
        r"|\bLASTVAL\s*\(|\bPREVIOUS VALUE FOR\b"
        r"|\bGET (?:CURRENT )?DIAGNOSTICS\b|@@(?:identity|last_insert_id|warning_count|error_count)\b"
    ),
    locks=(
        r"(?P<all>\bRELEASE_ALL_LOCKS\s*\()|(?P<back>\bRELEASE_LOCK\s*\(|\bUNLOCK (?:TABLES?|INSTANCE)\b"
        r"|\bBACKUP UNLOCK\b)"
        r"|(?P<one>\bGET_LOCK\s*\(|\bLOCK (?:TABLES?|INSTANCE)\b|\bWITH READ LOCK\b|\bFOR EXPORT\b"
        r"|\bBACKUP LOCK\b)"
    ),
    quotes="`",
)

# https://www.postgresql.org/docs/current/sql-discard.html lists what a session consists of.
_POSTGRESQL = _rules(
    skipped=(
        r"\bE'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|(?<![\w$])\$(\w*)\$.*?\$\1\$"
        r"|\"[^\"]*\"|--[^\n]*|" + _BLOCK_COMMENT
    ),
    starts=(
        r"SET(?! (?:LOCAL|TRANSACTION|CONSTRAINTS)\b)|RESET|DISCARD|CALL|DO"
        r"|PREPARE(?! TRANSACTION\b)|DECLARE .* WITH HOLD"
        r"|CREATE(?: OR REPLACE)?(?: LOCAL| GLOBAL)? TEMP(?:ORARY)?"
    ),
    contains=(
        r"\bset_config\s*\((?![^()]*,\s*(?:true|'t(?:rue)?'|'on')\s*\))|\bpg_(?:try_)?advisory_lock"
        # Of comments inside of comments something is left. U&"..." is a name in hexadecimal.
        r"|/\*|\*/|\bU&\w"
        r"|\bpg_temp(?:_\d+)?\b|\bINTO (?:LOCAL |GLOBAL )?TEMP(?:ORARY)?\b"
        r"|\bUPDATE (?:ONLY )?(?:pg_catalog\s*\.\s*)?pg_settings\b"
    ),
    # What DISCARD ALL doesn't undo. Of LISTEN that is what has arrived already, and waits in the client.
    lasts=(
        r"(?:\A|;)\s*(?:LISTEN|SET (?:(?:SESSION|LOCAL) )?seed)\b|\bLOAD\s*(?:U&)?''|\bsetseed\s*\("
        r"|\bdblink_connect"
        r"|\bpg_replication_origin_session_|\bpg_(?:create|copy)_\w+_replication_slot\s*\("
        r"|\bpg_(?:start_backup|backup_start)\s*\("
    ),
    asks=r"\b(?:currval|lastval)\s*\(",
    # LISTEN counts as a lock: without the connection, notifications would be missed.
    locks=(
        r"(?P<all>\bpg_advisory_unlock_all\s*\(|\bUNLISTEN\s*\*|\bDISCARD ALL\b)"
        r"|(?P<back>\bpg_advisory_unlock|\bUNLISTEN\b)"
        r"|(?P<one>\bpg_(?:try_)?advisory_lock|\bLISTEN\b)"
    ),
    quotes='"',
)

# https://www.sqlite.org/pragma.html: excepted are those that only read.
_SQLITE = _rules(
    skipped=r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|" + _BLOCK_COMMENT,
    starts=(
        r"PRAGMA(?! (?:\w+\s*\.\s*)?"
        r"(?:\w+\s*\Z|(?:(?:table|index)_x?(?:info|list)|foreign_key_list|"
        r"(?:foreign_key|integrity|quick)_check|optimize)\b))"
        r"|ATTACH|DETACH|CREATE TEMP(?:ORARY)?"
    ),
    # SQLite takes a string for a name where it expects a name.
    contains=r"\bload_extension\s*\(|\bCREATE (?:\w+ ){1,2}(?:IF NOT EXISTS )?(?:temp|'')\s*\.",
    lasts=r"(?!)",
    asks=r"\b(?:last_insert_rowid|(?:total_)?changes)\s*\(",
    locks=r"(?!)",
    quotes='"`[',
)

_BY_VENDOR = {"mysql": _MYSQL, "postgresql": _POSTGRESQL, "sqlite": _SQLITE}

_BEGINS = re.compile(r"[\s(]*(?:BEGIN|START\s+TRANSACTION|XA\s+(?:START|BEGIN))\b", re.IGNORECASE)


class Traits(NamedTuple):
    """What a statement, or any of several in one text, does as far as its text tells.

    ``changes``: the session. ``lasts``: it changes what no reset undoes. ``asks``: for what the session's
    last statement has left, a new row's id or warnings. ``begins``: a transaction. ``locks``: how many
    of the session's locks it takes, less those that it gives back.
    """

    changes: bool
    lasts: bool
    asks: bool
    begins: bool
    locks: int


_NOTHING = Traits(changes=False, lasts=False, asks=False, begins=False, locks=0)
# "all": more than a session can have.
_LOCKS = {"one": 1, "back": -1, "all": -1_000_000}

_cache: dict[tuple[str, str], Traits] = {}


def traits(vendor: str, sql: Any) -> Traits:
    """``vendor``: the wrapper's. ``sql``: whatever cursors execute, bytes and psycopg's objects included."""
    try:
        return _cache[vendor, sql]
    except (KeyError, TypeError):
        pass
    rules = _BY_VENDOR.get(vendor)
    found = _NOTHING if rules is None else _analyse(rules, _text(sql))
    if isinstance(sql, str) and len(sql) <= MAX_CACHED_LENGTH:
        if len(_cache) >= MAX_CACHED:
            _cache.clear()
        _cache[vendor, sql] = found
    return found


def _text(sql: Any) -> str:
    if isinstance(sql, str):
        return sql
    if isinstance(sql, bytes | bytearray):
        return sql.decode(errors="replace")
    as_string = getattr(sql, "as_string", None)
    return str(sql) if as_string is None else str(as_string(None))


def _analyse(rules: _Rules, text: str) -> Traits:
    code = rules.skipped.sub(rules.replacement, text)
    statements = code.split(";")
    lasts = bool(rules.lasts.search(code))
    found = Traits(
        changes=lasts or bool(rules.contains.search(code)) or any(map(rules.starts.match, statements)),
        lasts=lasts,
        asks=bool(rules.asks.search(code)),
        begins=any(map(_BEGINS.match, statements)),
        locks=sum(_LOCKS[str(lock.lastgroup)] for lock in rules.locks.finditer(code)),
    )
    return _NOTHING if found == _NOTHING else found


def before(wrapper: LeaseHolder, sql: Any) -> None:
    """Called by cursors before each statement."""
    if not fork.noticed[0]:
        fork.notice()
    lease = wrapper._lease
    if lease is None:
        return
    lease.busy_since = time.monotonic()
    if not (wrapper.in_atomic_block or lease.driver.remembers_transaction):
        # Once the connection is broken, this driver doesn't know it.
        lease.was_in_transaction = lease.driver.in_transaction(lease.slot.connection) is not False
    if (
        not (lease.executed or wrapper.in_atomic_block or lease.pinned)
        and len(lease.cursors) <= 1
        and traits(wrapper.vendor, sql).asks
    ):
        raise TransactionManagementError(
            "This statement depends on the previous one's session, and in transaction scope, or when others "
            "have needed the connection, each statement may run in another session. Wrap both in atomic(), "
            "or use one cursor."
        )


def after(wrapper: LeaseHolder, sql: Any) -> None:
    """Called by cursors after each statement; also when it has failed, since it may have been executed in
    part.
    """
    lease = wrapper._lease
    if lease is None:
        return
    lease.executed = True
    lease.pool.counts.busy_seconds += time.monotonic() - lease.busy_since
    if not wrapper.autocommit:
        # Fetching its rows may fail, too.
        lease.was_in_transaction = True
    slot = lease.slot
    if not slot.opened_at:
        return
    try:
        found = _cache[wrapper.vendor, sql]
    except (KeyError, TypeError):
        found = traits(wrapper.vendor, sql)
    # The server reports more than the text tells, but no locks.
    changes = lease.driver.reports_session_changes and lease.driver.session_changed(slot.connection)
    if found is _NOTHING and not changes:
        return
    if found.begins:
        lease.has_begun_by_text = True
    if found.locks:
        slot.locks = max(0, slot.locks + found.locks)
    if lease.identity.reset_mode != "never" and not slot.beyond_reset:
        slot.beyond_reset = found.lasts
        slot.dirty = slot.dirty or found.changes or changes


def pin_session(wrapper: LeaseHolder) -> None:
    """``pooling.pin()``: keep the connection, and reset its session before others get it."""
    wrapper.ensure_connection()
    if wrapper._lease is not None:
        wrapper._lease.slot.dirty = True
        wrapper.pin()
