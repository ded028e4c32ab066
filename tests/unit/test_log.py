"""Text of others in the log: in one printable line, bounded, and without what is secret."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from django_db_pooling.log import (
    MAX_LABEL,
    MAX_LENGTH,
    escape_unprintable,
    redact,
    safe_label,
    traceback_text,
)

SECRET = "s3cr3t-c4n4ry"

# -- what it leaves out ---------------------------------------------------------------------------------

TEXTS = [
    f"postgres://app:{SECRET}@db.example/app",
    f"can't use mysql://app:{SECRET}@db:3306/x?ssl=1 today",
    f"mysql://:{SECRET}@db",
    f"url with an at sign postgres://app:{SECRET}@{SECRET}@db/x",
    f"ldaps://a.example,ldaps://app:{SECRET}@b.example",
    f"host=db password={SECRET} user=app",
    f"host=db password=a,b;{SECRET} user=app",
    f"host=db password = '{SECRET} it\\'s {SECRET}' user=app",
    f"PASSWORD 'it''s' is not password='it''s {SECRET}'",
    f"{{'user': 'app', 'password': '{SECRET}', 'host': 'db'}}",
    f"{{'user': 'app', 'password': b'{SECRET}', 'host': 'db'}}",
    f'{{"passwd": "{SECRET}"}}',
    json.dumps(json.dumps({"password": f"{SECRET} {SECRET}"})),
    repr(repr({"password": f"{SECRET} {SECRET}"})),
    f"connect(host='db', passwd='{SECRET}')",
    f"https://db/?user=app&password={SECRET}&x=1",
    f"ldap bind failed, cred='{SECRET}'",
    f"invalid credentials: password='{SECRET} {SECRET}'",
    f"secret={{'password': '{SECRET} {SECRET}'}}",
    f'cred=x,"password": "{SECRET} {SECRET}"',
    f"SECRET_KEY = 'django-insecure {SECRET}'",
    f"?access_token={SECRET}",
    f"PWD={SECRET};",
    f"PWD={{{SECRET};{SECRET}}};",
    f"password=no-{SECRET}",
    f"bindpw={SECRET}",
    f"DB_PW: '{SECRET}'",
    f"cut off: password='{SECRET}",
    f"cut off in an escape: password='{SECRET}\\",
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_looks_like_a_password_is_taken_out(text: str) -> None:
    for told in (redact(text), redact(ValueError(text))):
        assert SECRET not in told
        assert "***" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "(1045, \"Access denied for user 'app'@'h' (using password: YES)\")",
            "Access denied for user 'app'@'h' (using password: YES)",
        ),
        ('FATAL:  password authentication failed for user "app"', 'authentication failed for user "app"'),
        ("server closed the connection\n\tThis probably means", "server closed the connection This probably"),
        ('syntax error at or near "x"\nLINE 1: SELECT x FROM people', "syntax error at or near ..."),
        ('missing "=" after "SELECT x" in connection info', 'missing "=" after ... in connection info'),
        ("terminated\nCONTEXT:  SQL statement \"SELECT 'x'\"\nPL/pgSQL function f()", "terminated"),
        ("(1064, \"check the manual near 'SELECT 'x' ' at line 1\")", "check the manual near ... at line 1"),
        ("cut off: check the manual near 'SELECT x", "check the manual near ..."),
        ("duplicate key\nDETAIL:  Key (mail)=(x@example.org) already exists.", "duplicate key"),
        ("can't reach ldap://localhost:389", "can't reach ldap://localhost:389"),
        ("can't reach postgres://app@db/x", "can't reach postgres://app@db/x"),
        ("Held longest: 2.0 s by GET /x. INVALID_CREDENTIALS: {'desc': 'no'}", "{'desc': 'no'}"),
    ],
)
def test_the_rest_of_a_drivers_words_is_left_but_for_the_statement(text: str, told: str) -> None:
    said = redact(text)
    assert told in said
    assert "SELECT" not in said
    assert "x@example.org" not in said
    assert "\n" not in said


@pytest.mark.parametrize("text", TEXTS)
def test_a_secret_that_is_cut_off_leaves_no_half_behind(text: str) -> None:
    for read in range(len(text)):
        # White space takes no room in what is told.
        told = redact(" " * (4 * MAX_LENGTH - read) + text)
        assert SECRET[:4] not in told


def test_errors_have_their_type() -> None:
    assert redact(KeyError()) == "KeyError"
    assert redact(OSError("gone")) == "OSError: gone"
    credentials = type("INVALID_CREDENTIALS", (Exception,), {})
    assert redact(credentials("{'desc': 'no'}")) == "INVALID_CREDENTIALS: {'desc': 'no'}"
    assert redact(redact(credentials("{'desc': 'no'}"))) == "INVALID_CREDENTIALS: {'desc': 'no'}"


def test_who_cannot_say_what_it_is_is_told_by_its_type() -> None:
    class Silent:
        def __str__(self) -> str:
            raise RuntimeError("no")

    class Odd(Silent, Exception):
        pass

    assert redact(Silent()) == "Silent"
    assert redact(Odd()) == "Odd"
    assert redact(type("a\x1bb", (Exception,), {})()) == r"a\x1bb"


# -- what it shows --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\x00b\x7fc\x9bd", r"a\x00b\x7fc\x9bd"),
        ("admin\u202egnp.exe\u2066", r"admin\u202egnp.exe\u2066"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("half \ud83d", r"half \ud83d"),
        ("straße/日本/😀", "straße/日本/😀"),
        (r"C:\temp \x1b", r"C:\temp \x1b"),
    ],
)
def test_what_a_terminal_would_obey_or_hide_is_escaped_once(text: str, told: str) -> None:
    assert redact(text) == redact(redact(text)) == safe_label(text) == escape_unprintable(text) == told


def test_lines_of_a_server_become_one_and_those_of_a_visitor_are_shown() -> None:
    text = "GET /x\nERROR forged\r\n\u2028\x85 y"
    assert redact(text) == "GET /x ERROR forged y"
    assert safe_label(text) == r"GET /x\nERROR forged\r\n\u2028\x85 y"


def test_labels_are_short_and_those_that_are_short_are_left_alone() -> None:
    text = "GET /" + "x" * (MAX_LABEL - 5)
    assert safe_label(text) is text
    assert safe_label(text + "x") == text[:-3] + "..."
    assert len(safe_label("GET /" + "\x1b" * 10_000)) == MAX_LABEL
    assert len(safe_label("GET /" + ":" * 4_000)) == MAX_LABEL
    at_the_cut = f"GET /{'x' * 170}/mysql://app:{SECRET}"
    assert SECRET[:4] not in safe_label(f"{at_the_cut}{'y' * 10_000}@db")
    assert SECRET[:4] not in safe_label(f"GET /password='{'y' * 770}'/mysql://app:{SECRET}{'y' * 100}@db")


def test_the_way_of_an_error_is_told_without_source_and_bounded() -> None:
    def fall(depth: int) -> None:
        if depth:
            fall(depth - 1)
        raise ValueError("password='secret'")

    error = pytest.raises(ValueError, fall, 50).value
    lines = traceback_text(error).splitlines()
    assert len(lines) == 20
    assert all(re.fullmatch(r"  .+test_log\.py:\d+ in fall", line) for line in lines), lines
    source = compile("raise ValueError", "<\x1b>", "exec")
    assert traceback_text(pytest.raises(ValueError, exec, source).value).endswith(r"  <\x1b>:1 in <module>")


# -- whatever the text is -----------------------------------------------------------------------------------

PIECES = [
    *"'\"\\:=@ /*,.)}{&;?\n\t\x00\x1b\x7f\x85\x9b\u2028\u202e\u200b\ud800ab5é",
    *("password", "passwd=", "PWD", "secret", "token", "credentials", "(using password: YES)", "***", "..."),
    *("://", "a://", "a://b:c@d", "near '", 'near "', "\nLINE 1", "\nCONTEXT", "password='", "password=b'"),
]
texts = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=60).map("".join))


@given(texts, st.integers(0, 40))
@example("000000000000000000000000000near '000000 0000000000000000", 40)
@settings(deadline=None)
def test_whatever_comes_in_a_short_printable_line_comes_out_which_comes_out_as_it_is(
    text: str, times: int
) -> None:
    text *= times + 1
    tells: list[tuple[Callable[[str], str], int]] = [(redact, MAX_LENGTH), (safe_label, MAX_LABEL)]
    for tell, limit in tells:
        told = tell(text)
        assert told.isprintable()
        assert len(told) <= limit
        # Where it was cut, what was at the end may look otherwise.
        again = tell(told)
        kept = len(told) - 40 * told.endswith("...")
        assert again[:kept] == told[:kept]
        assert again.isprintable()


def _dsn(secret: str) -> str:
    return re.sub(r"([\\'])", r"\\\1", secret)


# How a secret is written, by whom: of all characters, or only of those that are no white space.
QUOTED: list[Callable[[str], str]] = [
    lambda secret: f"host=db password='{_dsn(secret)}' user=app",
    lambda secret: repr({"user": "app", "password": secret, "host": "db"}),
    lambda secret: json.dumps({"user": "app", "password": secret, "host": "db"}),
    lambda secret: json.dumps({"passwd": secret, "host": "db"}, separators=(",", ":"), ensure_ascii=False),
    lambda secret: f"connect(passwd={secret!r}, host='db')",
    lambda secret: f"connect(passwd={secret.encode('utf-8', 'surrogatepass')!r})",
]
BARE: list[Callable[[str], str]] = [
    lambda secret: f"mysql://app:{secret}@db:3306/app",
    lambda secret: f"ldap://a,ldap://:{secret}@b",
]
UNQUOTED: list[Callable[[str], str]] = [
    lambda secret: f"host=db password={secret} user=app",
    lambda secret: f"https://db/?password={secret}",
    lambda secret: f"PWD={secret};SERVER=db",
]
around = st.text(st.characters(exclude_characters="'\"\\"), max_size=30)
# Three stars and then a comma are what is told of a password.
parts = st.lists(st.sampled_from([piece for piece in PIECES if piece != "***"]), max_size=6).map("".join)


@given(around, parts, parts, around, st.sampled_from(QUOTED))
def test_a_secret_in_quotes_is_never_told(
    before: str, head: str, tail: str, after: str, form: Callable[[str], str]
) -> None:
    assert SECRET not in redact(f"{before} {form(head + SECRET + tail)} {after}")


@given(around, parts, parts, around, st.sampled_from(BARE))
def test_a_secret_in_a_url_is_never_told(
    before: str, head: str, tail: str, after: str, form: Callable[[str], str]
) -> None:
    secret = "".join((head + SECRET + tail).split())
    assert SECRET not in redact(f"{before} {form(secret)} {after}")


@given(around, parts, parts, around, st.sampled_from(UNQUOTED))
def test_a_secret_without_quotes_is_never_told(
    before: str, head: str, tail: str, after: str, form: Callable[[str], str]
) -> None:
    secret = re.sub(r"[\s'\"]", "", head + SECRET + tail)
    assert SECRET not in redact(f"{before} {form(secret)} {after}")


few = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4)


@given(st.just([]) | few, few)
@example([], [":"])
@example(["a://"], [":"])
@example([], ["a://:"])
@example(["password='"], ["\\"])
@example([], ["password\\"])
@example([], ["near '", 'near "'])
@settings(max_examples=60, deadline=None)
@pytest.mark.timeout(60)
def test_long_texts_take_no_more_than_time_in_proportion(begin: list[str], more: list[str]) -> None:
    """Fifty times as long as what is read of others' text: the square of that would take minutes for each."""
    unit = "".join(more)
    text = "".join(begin) + unit * (100_000 // len(unit))
    assert len(redact(text, len(text))) <= len(text)
