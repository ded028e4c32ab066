"""Starts the exporters that ``settings.DB_POOL_METRICS`` lists; by default none.

Nothing imports their libraries before that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from django.conf import ENVIRONMENT_VARIABLE, settings
from django.core.checks import CheckMessage, Error, register

from django_db_pooling import checks
from django_db_pooling.conf import Problem
from django_db_pooling.log import redact

ID = "django_db_pooling.E007"
# Of each: what starts it.
EXPORTERS = {"prometheus": "register", "opentelemetry": "start"}


def start() -> None:
    """Export from now on, as soon as there are settings; calling it again changes nothing.

    ``patch()`` raises what is wrong with them; for those that come later the log has it.
    """
    found = problems()
    checks.log_once(found)
    if not found:
        for name in _names():
            getattr(_module(name), EXPORTERS[name])()


def problems() -> list[Problem]:
    names = _names()
    if not isinstance(names, list | tuple) or not set(map(str, names)) <= EXPORTERS.keys():
        return [
            Problem(
                ID,
                f"DB_POOL_METRICS is {redact(repr(names))}.",
                f"It must be a list of exporters, which are {' and '.join(map(repr, EXPORTERS))}.",
            )
        ]
    found = []
    for name in names:
        try:
            _module(name)
        except ImportError as error:
            found.append(
                Problem(
                    ID,
                    f"DB_POOL_METRICS has {name!r}, whose library can't be imported: {redact(error)}.",
                    f"Run: pip install 'django_db_pooling[{name}]'",
                )
            )
    return found


def _names() -> Any:
    are_there = settings.configured or os.environ.get(ENVIRONMENT_VARIABLE)
    return getattr(settings, "DB_POOL_METRICS", []) if are_there else []


def _module(name: str) -> Any:
    return import_module(f"django_db_pooling.metrics.{name}")


@register
def check_metrics(app_configs: Iterable[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    return [Error(problem.message, hint=problem.hint, id=problem.id) for problem in problems()]
