"""The beginning and the end of a request, as a server would tell them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from django.core import signals


class _Environs(threading.local):
    """A server refers to a request's environ as long as the request lasts."""

    def __init__(self) -> None:
        # Innermost last.
        self.stack: list[dict[str, Any]] = []


_environs = _Environs()


def request_started() -> None:
    _environs.stack.append({"REQUEST_METHOD": "GET", "PATH_INFO": "/test"})
    signals.request_started.send(sender=None, environ=_environs.stack[-1])


def request_finished() -> None:
    signals.request_finished.send(sender=None)
    if _environs.stack:
        _environs.stack.pop()


def request(work: Callable[[], Any]) -> Any:
    """What it returns, as a request in this thread."""
    request_started()
    try:
        return work()
    finally:
        request_finished()


def finish_all_requests() -> None:
    """Also one that nobody said had begun."""
    request_finished()
    while _environs.stack:
        request_finished()
