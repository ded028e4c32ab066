"""The logger, and what makes foreign text safe for the log, the page, a terminal and error messages.

Foreign text comes from visitors (paths, names), servers (errors), the environment and settings. It is escaped
where it enters, and redacted where it is shown. Doing either twice changes nothing.
"""

from __future__ import annotations

import logging
import re
import signal
import traceback
from collections import deque
from typing import Any

logger = logging.getLogger("django_db_pooling")

# Characters of a redacted text, and of a label (a name, a path) in it.
MAX_LENGTH = 500
MAX_LABEL = 200
# As many times that is read, since redacting makes texts shorter.
_READ = 4
# Frames of a traceback, the innermost ones.
_MAX_FRAMES = 20

# Attackers may choose the text, and gevent's hub waits. So all patterns take linear time: repetitions are
# possessive, or nothing that could fail follows them.
# What may follow a server's message: the statement, its values, the position.
_STATEMENT = re.compile(r"\n(?:LINE \d++|CONTEXT|DETAIL|QUERY|STATEMENT|WHERE)\b.*+", re.DOTALL)
# What a parser quotes: a statement, or the part of a DSN that may be the rest of a password. To the last
# quote, or to the end if the text was cut off.
_NEAR = re.compile(r"(?:(?<=near )|(?<=missing \"=\" after ))(['\"])(?:.*\1|.*+)", re.DOTALL)
_URL = re.compile(r"://(\S++)")
# In a DSN, keyword arguments, a URL's query and JSON, also inside of the repr() of another string.
_KEY = (
    r"(?:(?:password|passwd|passphrase|secret|token)\w{0,20}+|pass|pwd|(?:\b|_|bind)pw|credentials?|cred"
    r"|api_?key)"
    r"\\*+['\"]?\s?[=:]>?\s?"
)
_KEYS = re.compile(_KEY, re.IGNORECASE)
_QUOTED = r"(?:'(?:[^'\\]|\\.)*+\\?(?:'|$)|\"(?:[^\"\\]|\\.)*+\\?(?:\"|$))"
# An unquoted value ends at a space. It may contain any other character.
_BARE = rf"(?:(?!{_KEY}|\(using )\S)"
_END = r"(?:[\s,;&)}\]]|$)"
_WORD = re.compile(
    # Not MySQL's "(using password: YES)", not our own stars, and no dict: that has keys of its own.
    rf"(?!(?<=\(using )password: (?:YES|NO)\))({_KEY})(?!\*\*\*{_END}|\{{['\"])"
    rf"(?:\\*+[bru]{{0,2}}+{_QUOTED}++(?:(?={_END})|{_BARE}*+)|{_BARE}++)",
    re.IGNORECASE,
)


def extra(event: str, **fields: Any) -> dict[str, Any]:
    """The ``extra`` of a log record: attributes with a prefix, so that they clash with no others."""
    return {f"pool_{name}": value for name, value in {"event": event, **fields}.items()}


def redact(text: object, max_length: int = MAX_LENGTH) -> str:
    """A text or an error as one printable line, without passwords and statements. Never raises.

    At most ``max_length`` characters. Only the beginning of a long text is read.
    """
    try:
        return _redact(text, max_length)
    except Exception as error:
        # Where the stack is at its end, for example.
        if is_signalled(error):
            raise
        return "?"


def _redact(text: object, max_length: int) -> str:
    try:
        line = str(text)
    except Exception as error:
        if is_signalled(error):
            raise
        line = "" if isinstance(text, BaseException) else type(text).__name__
    if is_long := len(line) > _READ * max_length:
        # The @ that ends the password in a URL may have been cut off.
        line = line[: _READ * max_length] + "@"
    line = " ".join(_STATEMENT.sub("", line).split())
    line = _URL.sub(_without_password, _NEAR.sub("...", line))
    # Once more: removing quoted text may have joined the two ends of a URL.
    line = _URL.sub(_without_user, _WORD.sub(r"\1***", line))
    line = escape_unprintable(line.removesuffix("@").rstrip() if is_long else line)
    if isinstance(text, BaseException):
        name = escape_unprintable(type(text).__name__)
        line = f"{name}: {line}" if line else name
    return line if len(line) <= max_length else line[: max_length - 3] + "..."


def safe_label(text: str) -> str:
    """A name or a path as one printable line of at most ``MAX_LABEL`` characters, with visible white space.

    A short one is not redacted here, which would cost too much in each request, but where it is shown. Never
    raises.
    """
    try:
        if len(text) <= MAX_LABEL and text.isprintable():
            return text
        # One more than redact() reads, so that it sees that the text goes on.
        return redact(escape_unprintable(text[: _READ * MAX_LABEL + 1]), MAX_LABEL)
    except Exception as error:
        if is_signalled(error):
            raise
        return "?"


def escape_unprintable(text: str) -> str:
    """With escapes such as ``\\x1b`` for characters that a terminal would interpret or hide."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def is_signalled(error: BaseException) -> bool:
    """Whether a signal's handler has raised it, to end a task for example, wherever that struck."""
    if isinstance(error, RecursionError):
        # Looking at the handlers takes some stack, too.
        return False
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    # Functions and methods, or objects that can be called.
    calls = [call for one in handlers if callable(one) for call in (one, type(one).__call__)]
    codes = {getattr(call, "__code__", None) for call in calls} - {None}
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


def traceback_text(error: BaseException) -> str:
    """The traceback of an error: a line for each frame, the innermost last, without source code."""
    tail: deque[tuple[Any, int]] = deque(traceback.walk_tb(error.__traceback__), _MAX_FRAMES)
    places = [(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in tail]
    return "\n".join(f"  {safe_label(file)}:{line} in {safe_label(name)}" for file, line, name in places)


def _without_password(url: re.Match[str]) -> str:
    """What follows a key such as ``password=`` is kept, for the pattern of keys to replace."""
    user, _, rest = url[1].rpartition("@")
    if ":" not in user:
        return url[0]
    last = max((key.start() for key in _KEYS.finditer(user)), default=len(user))
    return f"://***{user[last:]}@{rest}"


def _without_user(url: re.Match[str]) -> str:
    user, _, rest = url[1].rpartition("@")
    return f"://***@{rest}" if ":" in user or "***" in user else url[0]
