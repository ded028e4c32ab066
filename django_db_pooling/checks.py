"""System checks. ``patch()`` looks at the same findings, since checks don't run under gunicorn."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Warning, register
from django.db import connections
from django.db.utils import load_backend

from django_db_pooling import conf, drivers


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


@register
def check_pools(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    errors = [Error(p.message, hint=p.hint, id=p.id) for p in settings_errors()]
    return errors + [Warning(p.message, hint=p.hint, id=p.id) for p in driver_warnings()]
