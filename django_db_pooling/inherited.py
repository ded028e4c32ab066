"""What a forked child has from its parent and must neither use nor destroy.

A destructor could say goodbye on a socket that is the parent's (mysqlclient's does), or roll the
parent's transaction back in its file (sqlite3's does). So these objects are kept for good: not
even the end of the child's interpreter, which clears its modules, destroys them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

try:
    from ctypes import py_object, pythonapi
except ImportError:  # a Python without ctypes
    pythonapi = None  # type: ignore[assignment]

_immortal: list[Any] = []


def cut_off(descriptors: Iterable[int | None]) -> None:
    """Put /dev/null where these sockets are: whoever writes to one by mistake disturbs nobody."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        if descriptor is not None:
            os.dup2(null, descriptor)
    os.close(null)


def keep(thing: Any) -> None:
    """Never let this object's destructor run."""
    _immortal.append(thing)
    if pythonapi is not None:
        # One reference more than anybody will give up.
        pythonapi.Py_IncRef(py_object(thing))
