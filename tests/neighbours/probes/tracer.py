from __future__ import annotations

import threading
from typing import Any

import wrapt
from django.db.utils import ConnectionHandler

# Threads for which it was called; by when it was put on.
before: set[int] = set()
after: set[int] = set()


def trace(seen: set[int]) -> None:
    """Wraps what gives a thread its connection, as it is now."""

    def traced(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        seen.add(threading.get_ident())
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(ConnectionHandler, "__getitem__", traced)


trace(before)
