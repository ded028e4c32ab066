"""What a forked child has from its parent and must neither use nor destroy.

A destructor could say goodbye on a socket that is the parent's (mysqlclient's does), so these
objects are kept for the life of the process.
"""

from __future__ import annotations

from typing import Any

_immortal: list[Any] = []


def keep(thing: Any) -> None:
    """Never let this object's destructor run."""
    _immortal.append(thing)
