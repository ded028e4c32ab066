"""The user and the password of a connection that is opened, where a callable of the site's gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.db import OperationalError

KEYS = ("USER", "PASSWORD", "OPTIONS")


class NoCredentials(OperationalError):
    """The callable has failed. What it raised is the cause, and not in the text: it may contain a secret."""


def put_into(
    settings_dict: dict[str, Any], alias: str, credentials: Callable[[str], Mapping[str, Any]]
) -> None:
    """Ask for them and put them into these settings: a copy, for one connect. Raises NoCredentials."""
    try:
        answer = dict(credentials(alias))
    except Exception as error:
        raise NoCredentials(f"{alias}: CREDENTIALS raised {type(error).__name__}") from error
    if unknown := [key for key in answer if key not in KEYS]:
        raise NoCredentials(f"{alias}: CREDENTIALS gave {unknown}; it may give {', '.join(KEYS)}")
    options = {**(settings_dict.get("OPTIONS") or {}), **(answer.pop("OPTIONS", None) or {})}
    settings_dict.update(answer, OPTIONS=options)
