"""What a statement does to the state of its session, by its text: rules for each family of databases.

In doubt a statement changes the session: that costs a reset, while a wrong no shows one user's data to
another. The contents of comments and string literals don't count.

Texts may be long, and made by users in part. So all patterns take linear time: repetitions are possessive, or
nothing that could fail follows them. Most statements are decided by a first look, which reads a text once and
copies nothing.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import NamedTuple

# How many statements are remembered for certain, and the longest that is remembered by its text (characters).
MAX_KNOWN = 2048
MAX_KEY = 2000


class Traits(NamedTuple):
    """What a statement, or any of several in one text, does as far as its text tells.

    ``changes``: the session. ``lasts``: it changes what no reset undoes. ``asks``: for what the session's
    last statement has left, a new row's id or warnings. ``begins``: a transaction. ``types``: it changes
    those of the database, which drivers learn when they connect. ``locks``: how many of the session's locks
    it takes, less those that it gives back.
    """

    changes: bool
    lasts: bool
    asks: bool
    begins: bool
    types: bool
    locks: int


NOTHING = Traits(changes=False, lasts=False, asks=False, begins=False, types=False, locks=0)
# Of what can't be read.
UNKNOWN = Traits(changes=True, lasts=True, asks=False, begins=True, types=False, locks=0)
# "all": more than a session can have.
_LOCKS = {"one": 1, "back": -1, "all": -1_000_000}

# Stands for what the rules can't be sure of.
_DOUBT = "\0"
# No name that the rules know is longer (characters).
_MAX_NAME = 64
# How far from a suspect is what decides whether it is one; if it is farther, it is.
_BEFORE, _AFTER = 100, 500

# What may come before a statement that is executed.
_EXPLAINING = r"SET\s+STATEMENT\b.*?\bFOR\b|EXPLAIN|ANALYZE|ANALYSE|VERBOSE|QUERY\s+PLAN|\([^()]*\)"
_BEGINS = re.compile(r"[\s(]*(?:BEGIN|START\s+TRANSACTION|XA\s+(?:START|BEGIN))\b", re.IGNORECASE)


class Rules:
    """Of one family.

    Patterns, in which a space stands for any white space. ``comment``: no code is in it. ``quoted``: literals
    and names; ``doubtful``: what is left where these have no end, for example. Only in these three case
    matters; ``special`` are the characters with which they begin. ``names``: opening quotes of names.

    A statement that begins with a word of ``harmless`` and has nothing ``suspicious`` in it does nothing of
    what follows. Of what is suspicious, the character in brackets is looked for.

    A statement changes the session if it ``starts`` so, or ``contains`` this; if it ``lasts``, no reset
    undoes that. It ``asks`` for what the session's last statement has left. Of the session's ``locks`` it
    takes ``one``, gives one ``back``, or ``all``. It changes ``types`` if it begins so.
    """

    def __init__(
        self,
        *,
        special: str,
        comment: str,
        quoted: str,
        doubtful: str,
        names: str,
        harmless: str,
        suspicious: tuple[str, ...],
        starts: str,
        contains: str,
        lasts: str,
        asks: str,
        locks: str,
        types: str = r"(?!)",
    ) -> None:
        # What was found out, by text, or by its hash where that is long: 64 bits with a secret of the
        # process. Whoever doesn't find it here asks traits().
        self.known: dict[Hashable, Traits] = {}
        self._known_before: dict[Hashable, Traits] = {}
        self._names = names
        special = f"(?=[{re.escape(special)}])"
        self._quoted = re.compile(f"{special}(?:{quoted}|{comment}|(?P<doubtful>{doubtful}))", re.DOTALL)
        self._harmless = re.compile(rf"(?:[\s(]++|{comment})*+(?i:{harmless})\b", re.DOTALL)
        self._suspicious = re.compile(_found_by_character(rf"[{_DOUBT}]", r"[;](?!\s*+\Z)", *suspicious))
        self._starts = _compiled(rf"[\s(]*(?:(?:{_EXPLAINING})\s*)*+(?:{starts})")
        self._contains = _compiled(f"{_DOUBT}|{contains}")
        self._lasts, self._asks, self._locks = _compiled(lasts), _compiled(asks), _compiled(locks)
        self._types = _compiled(types)

    def traits(self, text: str) -> Traits:
        key: Hashable = text if len(text) <= MAX_KEY else hash(text)
        found = self.known.get(key) or self._known_before.get(key)
        if found is None:
            found = NOTHING if self._is_harmless(text) else self._analyse(text)
        if len(self.known) >= MAX_KNOWN:
            # What is executed again and again outlives what comes only once.
            self._known_before, self.known = self.known, {}
        self.known[key] = found
        return found

    def asked(self, text: str) -> str | None:
        """What of a statement asks for what the last one has left: "LAST_INSERT_ID()". None: not known."""
        found = self._asks.search(self._quoted.sub(self._replacement, text))
        return None if found is None else re.sub(r"\s*\(\s*\)?\Z", "()", found[0])

    def _is_harmless(self, text: str) -> bool:
        """At first sight: what is in literals and comments counts, too."""
        beginning = self._harmless.match(text)
        return beginning is not None and self._suspicious.search(text, beginning.end()) is None

    def _analyse(self, text: str) -> Traits:
        code = self._quoted.sub(self._replacement, text)
        found = [self._of_one(one) for one in code.split(";") if one.strip() and not self._is_harmless(one)]
        together = Traits(
            changes=any(one.changes for one in found),
            lasts=any(one.lasts for one in found),
            asks=any(one.asks for one in found),
            begins=any(one.begins for one in found),
            types=any(one.types for one in found),
            locks=sum(one.locks for one in found),
        )
        return NOTHING if together == NOTHING else together

    def _of_one(self, code: str) -> Traits:
        """Of one statement, without comments and literals."""
        if len(code) > MAX_KEY and self._harmless.match(code):
            code = self._around_suspects(code)
        lasts = bool(self._lasts.search(code))
        return Traits(
            changes=lasts or bool(self._starts.match(code) or self._contains.search(code)),
            lasts=lasts,
            asks=bool(self._asks.search(code)),
            begins=bool(_BEGINS.match(code)),
            types=bool(self._types.match(code)),
            locks=sum(_LOCKS[str(lock.lastgroup)] for lock in self._locks.finditer(code)),
        )

    def _around_suspects(self, code: str) -> str:
        """Of a statement that begins harmlessly, what is left: nothing else of it matters."""
        pieces, end = [], 0
        for found in self._suspicious.finditer(code):
            start = found.start() - _BEFORE
            # What is left out is no beginning of a statement.
            pieces += ["x " * (start > end), code[max(start, end) : found.start() + _AFTER]]
            end = found.start() + _AFTER
        return "".join(pieces)

    def _replacement(self, found: re.Match[str]) -> str:
        if found.lastgroup == "doubtful":
            return f" {_DOUBT} "
        text = found[0]
        if text[0] not in self._names:
            return " " if text[0] in "/-#" else "''"
        # A quoted name stays a name, also where no space is around it.
        start, end = found.span()
        before, after = found.string[max(start - 1, 0) : start], found.string[end : end + 1]
        name = re.sub(r"\W", "_", text[1:-1]) if len(text) <= _MAX_NAME else "x"
        return f"{' ' * before.isalnum()}{name}{' ' * after.isalnum()}"


class Same(Rules):
    """What is said of each statement, whatever its text."""

    def __init__(self, traits: Traits) -> None:
        self.known = {}
        self._traits = traits

    def traits(self, text: str) -> Traits:
        return self._traits

    def asked(self, text: str) -> str | None:
        return None


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace(" ", r"\s+"), re.IGNORECASE | re.DOTALL)


def _found_by_character(*words: str) -> str:
    """A pattern that passes over text quickly: each alternative begins with a character, in either case."""
    alternatives = []
    for word in words:
        before, character, after = re.split(r"[\[\]]", word)
        for one in sorted({character.lower(), character.upper()}):
            alternatives.append(f"{re.escape(one)}(?i:(?<={before}{re.escape(one)}){after})")
    return "|".join(alternatives)


_BLOCK_COMMENT = r"/\*(?:[^*]++|\*(?!/))*+(?:\*/|\Z)"
# An argument of a function, in which others may be called.
_ARGUMENT = r"(?:[^(),]++|\((?:[^()]++|\((?:[^()]++|\([^()]*+\))*+\))*+\))*+"

# https://dev.mysql.com/doc/refman/8.4/en/mysql-reset-connection.html lists what a session consists of,
# https://mariadb.com/kb/en/sql-statements/ has the statements. Comments that begin with /*! or /*M! are code,
# on some servers. Double quotes are around a literal or a name, and a backslash may mean itself.
MYSQL = Rules(
    special="'\"`#-/*\\",
    comment=r"#[^\n]*+|--(?=[\x00-\x20\x7f]|\Z)[^\n]*+|(?!/\*[Mm]?!)" + _BLOCK_COMMENT,
    quoted=r"'(?:[^'\\]++|\\.)*+'|\"(?:[^\"\\]++|\\.)*+\"|`[^`]*+`",
    doubtful=r"['\"`].*+|/\*[Mm]?!\d*|\*/|\\(?!N\b)",
    names='`"',
    harmless="SELECT|INSERT|UPDATE|DELETE|REPLACE|WITH|VALUES|SAVEPOINT|RELEASE|ROLLBACK|COMMIT",
    suspicious=(
        *("[@]", "get[_]lock", "release[_]", "sql[_]calc_found_rows", "last[_]insert_id", "found[_]rows"),
        *("row[_]count", "last[v]al", "pre[v]ious"),
    ),
    starts=(
        r"(?:SET(?! STATEMENT\b)|USE|CALL|PREPARE|EXECUTE|DEALLOCATE|DROP PREPARE|HANDLER|BEGIN NOT ATOMIC"
        r"|IF|CASE|FOR|WHILE|REPEAT|LOOP|BACKUP|BINLOG"
        r"|CREATE(?: OR REPLACE)? TEMPORARY|(?:UN)?LOCK (?:INSTANCE|TABLES?)"
        r"|FLUSH .*(?:READ LOCK|FOR EXPORT))\b"
        r"|(?:GET (?:\w+ )?DIAGNOSTICS|LOAD (?:DATA|XML))\b[^@]*+@"
    ),
    contains=(
        r"\bGET_LOCK\s*\(|@[\w$.']*\s*:=|\bINTO\s*@|\bSQL_CALC_FOUND_ROWS\b|\bLAST_INSERT_ID\s*\(\s*[^\s)]"
    ),
    # COM_RESET_CONNECTION resets none of them; of profiling MariaDB resets what the variable says.
    lasts=rf"\A[\s({_DOUBT}]*SET (?:(?:ROLE|RESOURCE GROUP)\b|.*\bprofiling\b)",
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
)

# Before what is no part of a name.
_APART = r"(?<![\w$\x80-\U0010ffff])"
_DOLLARS = rf"{_APART}(\$(?:[^\W\d]\w*+)?\$)"

# https://www.postgresql.org/docs/current/sql-discard.html lists what a session consists of. Comments may be
# inside of comments, which no pattern can tell. U&"..." is a name in hexadecimal.
POSTGRESQL = Rules(
    special="'\"$-/*eE",
    comment=r"--[^\n\r]*+|/\*(?:[^*/]++|\*(?!/)|/(?!\*))*+\*/",
    quoted=rf"'[^']*+'|{_APART}[eE]'(?:[^'\\]++|\\.)*+'|{_DOLLARS}(?:[^$]++|(?!\1)\$)*+\1|\"[^\"]*+\"",
    doubtful=rf"['\"].*+|{_DOLLARS}.*+|/\*|\*/",
    names='"',
    harmless="SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES|TABLE|SAVEPOINT|RELEASE|ROLLBACK|COMMIT",
    suspicious=(
        *("set[_]config", "pg[_]advisory_", "pg[_]try_advisory_", "pg[_]temp", "pg[_]settings", "u[&]"),
        *("pg[_]replication_origin_session_", "pg[_]create_", "pg[_]copy_", "pg[_]start_", "pg[_]backup_"),
        *("dblink[_]connect", "setsee[d]", r"\btem[p](?:orary)?\b", "curr[v]al", "last[v]al"),
    ),
    starts=(
        r"(?:SET(?! (?:LOCAL|TRANSACTION|CONSTRAINTS)\b(?!\s*\.))|RESET|DISCARD|CALL|DO"
        r"|PREPARE(?! TRANSACTION\s*'')|DECLARE .* WITH HOLD"
        # Such a table doesn't outlive its transaction.
        r"|CREATE(?: OR REPLACE)?(?: LOCAL| GLOBAL)? TEMP(?:ORARY)?\b(?!.* ON COMMIT DROP\b))\b"
    ),
    contains=(
        rf"\bset_config\s*\((?!{_ARGUMENT},{_ARGUMENT},\s*true\s*\))"
        r"|\bpg_(?:try_)?advisory_lock|\bU&\w"
        r"|\bpg_temp(?:_\d+)?\b|\bINTO (?:LOCAL |GLOBAL )?TEMP(?:ORARY)?\b"
        r"|\bUPDATE (?:ONLY )?(?:pg_catalog\s*\.\s*)?pg_settings\b"
    ),
    # What DISCARD ALL doesn't undo. Of LISTEN that is what has arrived already, and waits in the client.
    lasts=(
        r"\A\s*(?:LISTEN|LOAD|SET (?:(?:SESSION|LOCAL) )?seed)\b|\bsetseed\s*\("
        r"|\bdblink_connect"
        r"|\bpg_replication_origin_session_|\bpg_(?:create|copy)_\w+_replication_slot\s*\("
        r"|\bpg_(?:start_backup|backup_start)\s*\("
    ),
    asks=r"\b(?:currval|lastval)\s*\(",
    # LISTEN counts as a lock: without the connection, notifications would be missed.
    locks=(
        r"(?P<all>\bpg_advisory_unlock_all\s*\(|\A\s*UNLISTEN\s*\*|\A\s*DISCARD ALL\b)"
        r"|(?P<back>\bpg_advisory_unlock|\A\s*UNLISTEN\b)"
        r"|(?P<one>\bpg_(?:try_)?advisory_lock|\A\s*LISTEN\b)"
    ),
    types=r"\s*(?:CREATE|ALTER|DROP) (?:EXTENSION|TYPE|DOMAIN)\b",
)

# https://www.sqlite.org/pragma.html: excepted are those that only read.
SQLITE = Rules(
    special="'\"`[-/",
    comment=r"--[^\n]*+|" + _BLOCK_COMMENT,
    quoted=r"'[^']*+'|\"[^\"]*+\"|`[^`]*+`|\[[^\]]*+\]",
    doubtful=r"['\"`\[].*+",
    names='"`[',
    harmless="SELECT|INSERT|UPDATE|DELETE|REPLACE|WITH|VALUES|SAVEPOINT|RELEASE|ROLLBACK|COMMIT",
    suspicious=("load[_]extension", "last[_]insert_rowid", "chan[g]es"),
    starts=(
        r"(?:PRAGMA(?! (?:\w+\s*\.\s*)?"
        r"(?:\w+\s*\Z|(?:(?:table|index)_x?(?:info|list)|foreign_key_list|"
        r"(?:foreign_key|integrity|quick)_check|optimize)\b))"
        r"|ATTACH|DETACH|CREATE TEMP(?:ORARY)?)\b"
    ),
    # SQLite takes a string for a name where it expects a name.
    contains=r"\bload_extension\s*\(|\bCREATE (?:\w+ ){1,2}(?:IF NOT EXISTS )?(?:temp|'')\s*\.",
    lasts=r"(?!)",
    asks=r"\b(?:last_insert_rowid|(?:total_)?changes)\s*\(",
    locks=r"(?!)",
)

# Of a driver whose rules nobody has written, and of one that has no statements.
UNWRITTEN, NO_STATEMENTS = Same(UNKNOWN), Same(NOTHING)
