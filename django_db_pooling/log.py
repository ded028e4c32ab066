"""The logger, and what text of others goes through before a log, a page, a terminal or an error tells it.

Such text comes from visitors (paths, names), servers (errors), the environment and settings. Each piece is
escaped where it enters and redacted where it is told, and comes out of a second time as it was.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections import deque
from typing import Any

logger = logging.getLogger("django_db_pooling")

# Characters of a text that is told, and of a name or a label in it.
MAX_LENGTH = 500
MAX_LABEL = 200
# So many times as much is read: what is left out makes room.
_READ = 4
# Of the lines that an exception has come through, the innermost ones.
_MAX_FRAMES = 20

# Others choose the text, and gevent's hub waits. So no pattern takes more than time in proportion to the
# length: what repeats in it gives nothing back, or nothing that could fail follows.
# What may follow a server's message: the statement, its values, where it was.
_STATEMENT = re.compile(r"\n(?:LINE \d++|CONTEXT|DETAIL|QUERY|STATEMENT|WHERE)\b.*+", re.DOTALL)
# What a parser quotes: a statement, or of a DSN what may be the rest of a password. To the last quote, or to
# the end where it was cut off.
_NEAR = re.compile(r"(?:(?<=near )|(?<=missing \"=\" after ))(['\"])(?:.*\1|.*+)", re.DOTALL)
_URL = re.compile(r"://(\S++)")
# In the words of a DSN, keyword arguments, a URL's query and JSON, also inside of another string's repr().
_KEY = (
    r"(?:(?:password|passwd|passphrase|secret|token)\w{0,20}+|pass|pwd|(?:\b|_|bind)pw|credentials?|cred"
    r"|api_?key)"
    r"\\*+['\"]?\s?[=:]>?\s?"
)
_KEYS = re.compile(_KEY, re.IGNORECASE)
_QUOTED = r"(?:'(?:[^'\\]|\\.)*+\\?(?:'|$)|\"(?:[^\"\\]|\\.)*+\\?(?:\"|$))"
# What isn't quoted goes on to a space: it may have any other character.
_BARE = rf"(?:(?!{_KEY}|\(using )\S)"
_END = r"(?:[\s,;&)}\]]|$)"
_WORD = re.compile(
    # MySQL says whether there was one. The stars are ours. What is in a dict has keys of its own.
    rf"(?!(?<=\(using )password: (?:YES|NO)\))({_KEY})(?!\*\*\*{_END}|\{{['\"])"
    rf"(?:\\*+[bru]{{0,2}}+{_QUOTED}++(?:(?={_END})|{_BARE}*+)|{_BARE}++)",
    re.IGNORECASE,
)


def extra(event: str, **fields: Any) -> dict[str, Any]:
    """The attributes of a record: named so that they are nobody else's."""
    return {f"pool_{name}": value for name, value in {"event": event, **fields}.items()}


def redact(text: object, limit: int = MAX_LENGTH) -> str:
    """A text, or an error, in one printable line of at most so many characters.

    Without what looks like a password, and without the text of a statement. Of a long text only the
    beginning is read. Never raises.
    """
    try:
        told = str(text)
    except Exception:
        told = "" if isinstance(text, BaseException) else type(text).__name__
    if is_long := len(told) > _READ * limit:
        # A password in a URL ends with its last @, which may be beyond.
        told = told[: _READ * limit] + "@"
    told = " ".join(_STATEMENT.sub("", told).split())
    told = _URL.sub(_without_password, _NEAR.sub("...", told))
    # Without what is quoted, the two ends of a URL may have come together.
    told = _URL.sub(_without_user, _WORD.sub(r"\1***", told))
    told = printable(told.removesuffix("@").rstrip() if is_long else told)
    if isinstance(text, BaseException):
        name = printable(type(text).__name__)
        told = f"{name}: {told}" if told else name
    return told if len(told) <= limit else told[: limit - 3] + "..."


def label(text: str) -> str:
    """A name or a path in a printable line of at most ``MAX_LABEL`` characters; white space in it is shown.

    It is not redacted where it is short: that costs too much for each request, and is done when it is told.
    """
    if len(text) <= MAX_LABEL and text.isprintable():
        return text
    # One more than is read, so that it is seen to go on.
    return redact(printable(text[: _READ * MAX_LABEL + 1]), MAX_LABEL)


def printable(text: str) -> str:
    """The same with escapes such as ``\\x1b`` in the place of what a terminal would obey or hide."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def stack_of(error: BaseException) -> str:
    """Where an error has come through: a line for each frame, the innermost last, without its source."""
    tail: deque[tuple[Any, int]] = deque(traceback.walk_tb(error.__traceback__), _MAX_FRAMES)
    return "\n".join(
        f"  {label(frame.f_code.co_filename)}:{line} in {label(frame.f_code.co_name)}" for frame, line in tail
    )


def _without_password(url: re.Match[str]) -> str:
    """What follows a key is that one's, also behind the @."""
    user, _, rest = url[1].rpartition("@")
    if ":" not in user:
        return url[0]
    last = max((key.start() for key in _KEYS.finditer(user)), default=len(user))
    return f"://***{user[last:]}@{rest}"


def _without_user(url: re.Match[str]) -> str:
    user, _, rest = url[1].rpartition("@")
    return f"://***@{rest}" if ":" in user or "***" in user else url[0]
