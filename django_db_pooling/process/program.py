"""What this process is called, by others and by itself: its program and command, never an option's value."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from django_db_pooling.log import safe_label

# Programs whose first argument is the name of a command.
_DJANGOS = ("manage.py", "manage", "django-admin", "django-admin.py", "django")
_COMMANDS = {"celery": ("worker", "beat", "events", "flower", "shell"), "rq": ("worker", "worker-pool")}
# Celery's and RQ's own options before the command, whose value is the next argument.
_WITH_VALUE = (
    *("-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir"),
    *("-u", "--url", "-c"),
)
_COMMAND = re.compile(r"[A-Za-z][\w-]*", re.ASCII)
# What billiard, which is Celery's, calls a child of a prefork worker.
_CHILD = re.compile(r"PoolWorker-(\d+)$")


def name() -> str:
    """Of the program, as a label: "gunicorn", "manage.py qcluster", "celery prefork 2"."""
    # An interpreter that another program embeds may have none.
    argv = [argument for argument in getattr(sys, "argv", ()) if isinstance(argument, str)] or [""]
    program = _program(argv[0])
    command = _command(program.removeprefix("python -m "), argv[1:])
    found = f"{program} {command}" if command else program
    return safe_label(os.fsencode(found).decode(errors="backslashreplace")) or "python"


def _program(path: str) -> str:
    if path == "-c":
        return "python -c"
    program = Path(path)
    if program.name == "__main__.py":
        # python -m gunicorn
        return program.parent.name
    module = getattr(getattr(sys.modules.get("__main__"), "__spec__", None), "name", None)
    if isinstance(module, str) and module.rpartition(".")[2] == program.stem:
        return f"python -m {module}"
    return program.name


def _command(program: str, arguments: Sequence[str]) -> str:
    if program in _DJANGOS:
        first = arguments[0] if arguments else ""
        return first if _COMMAND.fullmatch(first) else ""
    if program == "celery" and (number := _child_of_celery()):
        return f"prefork {number}"
    before = ""
    for argument in arguments:
        if argument in _COMMANDS.get(program, ()) and before not in _WITH_VALUE:
            return argument
        before = argument
    return ""


def _child_of_celery() -> str:
    """Its number in Celery's own log: of ForkPoolWorker-2, 2."""
    process = sys.modules.get("billiard.process")
    if process is None:
        return ""
    found = _CHILD.search(str(process.current_process().name))
    return found[1] if found else ""
