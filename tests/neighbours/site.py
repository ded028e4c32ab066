"""What probes use: requests as a WSGI server makes them, in threads or greenlets."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple
from wsgiref.util import setup_testing_defaults

from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception

AT_ONCE = 8
# Requests that a client sends on one connection, which a server handles in one thread or greenlet.
KEPT_ALIVE = 2
PATIENCE = 60.0  # seconds
# By which Django sets a new connection up. A pool opens fewer.
SET_UP = ("SELECT VERSION()", "SET SESSION TRANSACTION", "set_config('TimeZone'")


class Answer(NamedTuple):
    """``body``: of status 500, the exception."""

    status: int
    body: str


class _Failures(threading.local):
    last: str = ""


_failures = _Failures()
_handlers: list[WSGIHandler] = []


def _failed(sender: Any = None, **kwargs: Any) -> None:
    error = sys.exc_info()[1]
    _failures.last = f"{type(error).__name__}: {error}"


got_request_exception.connect(_failed)


def application() -> WSGIHandler:
    if not _handlers:
        _handlers.append(WSGIHandler())
    return _handlers[0]


def visit(
    path: str, method: str = "GET", body: str = "", headers: Mapping[str, str] | None = None, **environ: Any
) -> Answer:
    """One request, from its beginning to the close of its response."""
    path, _, query = path.partition("?")
    environ |= {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
    environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in (headers or {}).items()}
    data = body.encode()
    environ |= {"wsgi.input": io.BytesIO(data), "CONTENT_LENGTH": str(len(data))}
    environ.setdefault("CONTENT_TYPE", "application/x-www-form-urlencoded")
    setup_testing_defaults(environ)
    statuses: list[str] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        statuses.append(status)

    _failures.last = ""
    response = application()(environ, start_response)
    try:
        text = b"".join(response).decode()
    finally:
        response.close()
    status = int(statuses[0].split()[0])
    return Answer(status, _failures.last if status == 500 else text)


def visit_all(paths: Iterable[str], at_once: int = AT_ONCE, **options: Any) -> list[Answer]:
    """All of them, in the order of the paths; ``at_once`` clients, each with several requests."""
    return in_threads([partial(visit, path, **options) for path in paths], at_once)


def in_threads(functions: Iterable[Callable[[], Any]], at_once: int = AT_ONCE) -> list[Any]:
    """What they return or raise. New threads, greenlets where gevent has patched, for each ``KEPT_ALIVE``."""
    waiting = list(enumerate(functions))
    results: list[Any] = [None] * len(waiting)
    enough = threading.Semaphore(at_once)

    def work(numbered: list[tuple[int, Callable[[], Any]]]) -> None:
        try:
            for number, function in numbered:
                results[number] = outcome(function)
        finally:
            enough.release()

    threads = []
    while waiting:
        enough.acquire()
        threads.append(threading.Thread(target=work, args=(waiting[:KEPT_ALIVE],), daemon=True))
        del waiting[:KEPT_ALIVE]
        threads[-1].start()
    for thread in threads:
        thread.join(PATIENCE)
        if thread.is_alive():
            raise TimeoutError("a thread hangs")
    return results


def is_set_up(statement: object) -> bool:
    return any(words in str(statement) for words in SET_UP)


def outcome(function: Callable[[], Any]) -> Any:
    """What it returns, or what it raises, as a text."""
    try:
        return function()
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
