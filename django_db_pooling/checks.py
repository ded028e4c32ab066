"""System checks. ``patch()`` looks at the same findings, since checks don't run under gunicorn."""

from __future__ import annotations

import logging
import warnings
import weakref
from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Warning, register
from django.db import connections
from django.db.backends.signals import connection_created
from django.db.utils import load_backend

from django_db_pooling import conf, drivers

logger = logging.getLogger("django_db_pooling")
_said: set[str] = set()


def say_once(problems: list[conf.Problem]) -> None:
    """Log them as warnings, each of them once in a process."""
    for problem in problems:
        if problem.message not in _said:
            _said.add(problem.message)
            logger.warning("%s %s (%s)", problem.message, problem.hint, problem.id)


def settings_errors() -> list[conf.Problem]:
    """What is wrong with the settings of any alias, or with an alias that set_pool_size was given."""
    found = []
    for alias in connections.settings:
        found += conf.problems(alias, connections.settings[alias])
    for alias in conf.overridden_aliases():
        if alias not in connections.settings:
            found.append(
                conf.Problem(
                    "django_db_pooling.E005",
                    f"set_pool_size() was called with alias={alias!r}, which isn't in DATABASES.",
                    f"Aliases are {', '.join(map(repr, connections.settings))}.",
                )
            )
    return found


def driver_warnings() -> list[conf.Problem]:
    """Drivers that won't work well with a pool in this process."""
    found = []
    for alias in connections.settings:
        settings_dict = connections.settings[alias]
        if conf.is_off(settings_dict):
            continue
        database = _database(settings_dict["ENGINE"])
        if database is None:
            continue
        driver = drivers.find(database)
        if driver is None:
            found.append(
                conf.Problem(
                    "django_db_pooling.W002",
                    f"The database {alias!r} uses the driver {database.__name__!r}, which can't be pooled.",
                    "Its connections are Django's, as without this package. "
                    f'Set DATABASES[{alias!r}]["POOL"] = False to say that this is known.',
                )
            )
        elif advice := driver.advice():
            found.append(
                conf.Problem("django_db_pooling.W001", f"The database {alias!r} will block gevent.", advice)
            )
    return found


def _database(engine: str) -> Any:
    """The driver of a backend, None where it has none or can't be loaded: Django will say why."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load_backend(engine).DatabaseWrapper.Database
    except Exception:
        return None


def receiver_warnings() -> list[conf.Problem]:
    """Receivers of connection_created that may take it for the beginning of a request's use."""
    found = []
    for entry in connection_created.receivers:
        receiver = entry[1]() if isinstance(entry[1], weakref.ReferenceType) else entry[1]
        module = getattr(receiver, "__module__", None) or "django"
        if module.partition(".")[0] != "django":
            name = getattr(receiver, "__qualname__", type(receiver).__qualname__)
            found.append(
                conf.Problem(
                    "django_db_pooling.W003",
                    f"{module}.{name} receives connection_created, which is sent per physical connection.",
                    "What it sets for the current request would be seen by the next ones: receive "
                    "django_db_pooling.signals.connection_checked_out instead.",
                )
            )
    return found


@register
def check_pools(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    errors = [Error(p.message, hint=p.hint, id=p.id) for p in settings_errors()]
    advice = driver_warnings() + receiver_warnings()
    return errors + [Warning(p.message, hint=p.hint, id=p.id) for p in advice]
