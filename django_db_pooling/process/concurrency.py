"""How many processes a server runs, and how many callers at once in each, as far as it says so anywhere."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_db_pooling.process import program

GUNICORN_FILE = "gunicorn.conf.py"
# Of other servers than gunicorn, which has files and arguments, too.
_WORKERS = ("WEB_CONCURRENCY", "UVICORN_WORKERS", "GRANIAN_WORKERS", "UWSGI_PROCESSES", "UWSGI_WORKERS")
# gunicorn's arguments, by what its file calls them.
_ARGUMENTS = {
    "workers": re.compile(r"(?:--workers(?:=|\s+)|-w\s*)(\d+)(?:\s|$)"),
    "threads": re.compile(r"--threads(?:=|\s+)(\d+)(?:\s|$)"),
    "worker_class": re.compile(r"(?:--worker-class(?:=|\s+)|-k\s*)(\S+)"),
}
# Tasks run one after the other in these.
_ONE_BY_ONE = re.compile(r"celery prefork \d+|rq worker|rqworker|manage\.py rqworker")


def workers() -> int | None:
    """Processes of a host by the environment of servers, or by gunicorn's file in this directory."""
    found = [_gunicorn().get("workers"), *(os.environ.get(name) for name in _WORKERS)]
    return next((count for value in found if (count := _count(value)) is not None), None)


def callers() -> int | None:
    """Requests at once in each of those processes: 1 of gunicorn's sync worker; None: nobody says so."""
    said = _gunicorn()
    threads = _count(said.get("threads"))
    worker_class = said.get("worker_class")
    if worker_class in ("sync", "gthread"):
        return threads or 1
    if worker_class is None and threads is not None and threads > 1:
        # It takes gthread then.
        return threads
    return _count(os.environ.get("UWSGI_THREADS"))


def bounded(maximum: int | None, callers: int | None) -> int | None:
    """Connections that so many callers may open at most; None: any number."""
    known = [number for number in (maximum, callers) if number is not None]
    return min(known, default=None)


def callers_here() -> int | None:
    """Requests or tasks at once in this process; its own threads are not among them. None: not known."""
    name = program.name()
    if name == "gunicorn" and "gunicorn.workers.sync" in sys.modules or _ONE_BY_ONE.fullmatch(name):
        return 1
    # Threads or greenlets.
    return _count(getattr(sys.modules.get("uwsgi"), "cores", None))


def _count(value: object) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and int(text) else None


def _gunicorn() -> dict[str, Any]:
    """Arguments beat the file, as gunicorn has it. Those of its command line nobody else knows."""
    arguments = os.environ.get("GUNICORN_CMD_ARGS", "")
    found = {name: pattern.findall(arguments)[-1:] for name, pattern in _ARGUMENTS.items()}
    return {**_file(Path(GUNICORN_FILE)), **{name: value[0] for name, value in found.items() if value}}


def _file(path: Path) -> Mapping[str, Any]:
    """What it assigns literally; it is never run."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return {}
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in _ARGUMENTS
    }
