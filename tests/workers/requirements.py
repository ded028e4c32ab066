"""What the environments have whose libraries aren't in the extra "test"; made below .venv when first used."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import django

from tests.conftest import give_up, require_environment, require_module
from tests.e2e.sites import in_environment
from tests.folders import ROOT

ENVIRONMENTS = ROOT / ".venv" / "environments"
# As the tests' own environment has them, in all.
BASE = (
    "Django",
    "gevent",
    "greenlet",
    "gunicorn",
    "packaging",
    "psycopg",
    "psycopg-binary",
    "PyMySQL",
    "redis",
)
# One environment for all web servers, one for all libraries of tasks.
WEB_SERVERS = (
    *("daphne", "granian", "hypercorn", "waitress", "APScheduler"),
    # uvicorn takes sockets with websockets, and so does our client.
    *("channels", "uvicorn", "websockets"),
)
TASKS = (
    *("celery", "django-celery-results", "django-q2"),
    # Django has tasks of its own since 6.0.
    "django-tasks-db" if django.VERSION >= (6,) else "django-tasks-db[compat]",
)


def python_with(command: Sequence[str], libraries: Sequence[str]) -> Path | None:
    """The interpreter of an environment with these, for the command; None, that of the tests themselves.

    Without any libraries what the command runs has to be installed with the extra "test".
    """
    if libraries:
        return require_environment(ENVIRONMENTS, [*(f"{name}=={version(name)}" for name in BASE), *libraries])
    program, *arguments = command
    if program != "python" and not Path(in_environment(command)[0]).exists():
        give_up(f"{program} is not installed; `pip install .[test]` does it")
    for option, module in pairwise(arguments):
        if option in ("-m", "--module"):
            require_module(module.partition(".")[0])
    return None
