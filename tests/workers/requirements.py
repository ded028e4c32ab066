"""What the environments have whose libraries aren't in the extra "test"; made below .venv when first used."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import django

from tests.conftest import require_environment
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
WEB_SERVERS = ("daphne", "granian", "hypercorn", "waitress", "APScheduler")
# Django has tasks of its own since 6.0.
TASKS = ("django-q2", "django-tasks-db" if django.VERSION >= (6,) else "django-tasks-db[compat]")


def python_with(libraries: Sequence[str]) -> Path | None:
    """The interpreter of an environment with these; None, that of the tests themselves, without any."""
    if not libraries:
        return None
    return require_environment(ENVIRONMENTS, [*(f"{name}=={version(name)}" for name in BASE), *libraries])
