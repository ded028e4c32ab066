"""System checks. ``patch()`` runs them too, since checks don't run under gunicorn.

Those that have to ask a server are in ``capacity.py``.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Info, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.utils import load_backend

from django_db_pooling import capacity, conf, drivers, host_limit, versions
from django_db_pooling.conf import Problem
from django_db_pooling.drivers import introduction
from django_db_pooling.log import extra, logger
from django_db_pooling.process import green
from django_db_pooling.signals import foreign_receivers

# By the first letter of an id's last part: django_db_pooling.W001.
_LEVELS: dict[str, tuple[int, Callable[..., CheckMessage]]] = {
    "E": (logging.ERROR, Error),
    "W": (logging.WARNING, Warning),
    "I": (logging.INFO, Info),
}
# In names of modules: dj_db_conn_pool, django_db_geventpool, django_postgrespool2, django_mysqlpool, ...
_OTHER_POOL = re.compile(r"(?:conn|db|gevent|postgres|pg|sql)\w*pool")
_logged: set[str] = set()


def log_once(problems: Iterable[Problem]) -> None:
    """Log each of them once per process."""
    for problem in problems:
        if problem.message not in _logged:
            _logged.add(problem.message)
            level, _ = _LEVELS[_letter(problem)]
            fields = extra("check", check=problem.id)
            # A filter of the site's may raise.
            with contextlib.suppress(Exception):
                logger.log(level, "%s %s (%s)", problem.message, problem.hint, problem.id, extra=fields)


def _letter(problem: Problem) -> str:
    return problem.id.rpartition(".")[2][0]


def settings_errors() -> list[Problem]:
    """What is wrong with the settings, with an alias given to set_pool_size(), or with this process."""
    found = process_errors()
    found += introduction.problems(connections.settings)
    for alias in connections.settings:
        found += conf.problems(alias, connections.settings[alias])
    for alias in conf.overridden_aliases():
        if alias not in connections.settings:
            found.append(
                Problem(
                    "django_db_pooling.E005",
                    f"set_pool_size() was called with alias={alias!r}, which isn't in DATABASES.",
                    f"Aliases are {', '.join(map(repr, connections.settings))}.",
                )
            )
    if not found:
        found = host_limit.problems(conf.pooled(connections.settings).items())
    return found + capacity.settings_errors()


def process_errors() -> list[Problem]:
    """What this process runs in, and can't be pooled; also known later than patch(), with --preload."""
    found = []
    if green.eventlet_has_patched():
        found.append(
            Problem(
                "django_db_pooling.E008",
                "eventlet has patched this process, which can't pool connections there.",
                "Use gevent (gunicorn -k gevent) or threads (gunicorn -k gthread), or don't call patch().",
            )
        )
    # All requests of a process in one thread, which go on in turns. Without the variable Django refuses
    # their queries, pooled or not.
    if "gunicorn.workers.gtornado" in sys.modules and os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):
        found += [
            Problem(
                "django_db_pooling.E011",
                f"gunicorn's tornado worker handles many requests in one thread, and {alias!r} has request "
                "scope: each would give back what another one holds.",
                f'Set DATABASES[{alias!r}]["POOL"]["SCOPE"] to "transaction", or use gunicorn -k gthread.',
            )
            for alias, settings_dict in conf.pooled(connections.settings).items()
            if conf.scope(settings_dict) == conf.REQUEST
        ]
    return found


def advice() -> list[Problem]:
    """What works, but not as well as it could. Asks no server."""
    # In this order: looking at drivers loads them.
    found = driver_warnings() + versions.warnings()
    for alias, settings_dict in conf.pooled(connections.settings).items():
        found += _of_alias(alias, settings_dict)
    if green.patched("socket") and not green.patched("threading"):
        found.append(
            Problem(
                "django_db_pooling.W007",
                "gevent has patched sockets, but not threading: all greenlets share one connection.",
                "Call gevent.monkey.patch_all() with thread=True, its default.",
            )
        )
    return found


def driver_warnings() -> list[Problem]:
    """Drivers that can't be pooled, or that block gevent."""
    found = []
    for alias, settings_dict in conf.pooled(connections.settings).items():
        backend = _backend(settings_dict["ENGINE"])
        if backend is None:
            continue
        database = backend.Database
        driver = drivers.find(database)
        if driver is None:
            found.append(
                Problem(
                    "django_db_pooling.W002",
                    f"The database {alias!r} uses the driver {database.__name__!r}, which can't be pooled.",
                    "Its connections work as without this package. "
                    f'Set DATABASES[{alias!r}]["POOL"] = False to silence this warning.',
                )
            )
        elif hint := driver.advice():
            found.append(Problem("django_db_pooling.W001", f"The driver of {alias!r} blocks gevent.", hint))
    return found


def _backend(engine: str) -> Any:
    """The wrapper class of a backend. None if it has no driver or can't be loaded, which Django reports."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapper = load_backend(engine).DatabaseWrapper
            return wrapper if wrapper.Database else None
    except Exception:
        return None


def _of_alias(alias: str, settings_dict: Any) -> list[Problem]:
    try:
        limits = conf.limits_for(alias, settings_dict)
    except ImproperlyConfigured:
        # Reported as an error.
        return []
    where = f"DATABASES[{alias!r}]"
    found = []
    if limits.max_outstanding is None and limits.host_limit is None and green.patched("socket"):
        found.append(
            Problem(
                "django_db_pooling.W004",
                f"The pool of {alias!r} has no limit: under gevent every request may open a connection.",
                f'Set {where}["POOL"]["MAX_OUTSTANDING"] or "HOST_LIMIT", or give set_pool_size() a '
                "max_outstanding.",
            )
        )
    is_transaction_scoped = conf.scope(settings_dict, conf.REQUEST) == conf.TRANSACTION
    if is_transaction_scoped and settings_dict.get("ATOMIC_REQUESTS"):
        found.append(
            Problem(
                "django_db_pooling.W008",
                f"{where} has ATOMIC_REQUESTS and transaction scope: each request is one transaction, "
                "and holds its connection from the first statement to the end.",
                "Remove ATOMIC_REQUESTS and use atomic() where it is needed, or set SCOPE to 'request'.",
            )
        )
    if is_transaction_scoped and settings_dict.get("CONN_HEALTH_CHECKS"):
        found.append(
            Problem(
                "django_db_pooling.I003",
                f"{where} has CONN_HEALTH_CHECKS and transaction scope: this costs one more round trip per "
                "transaction, and per statement in autocommit.",
                "Remove CONN_HEALTH_CHECKS: connections that the server has closed are noticed without it.",
            )
        )
    if (
        conf.proxy(settings_dict) == conf.TRANSACTION
        and getattr(_backend(settings_dict["ENGINE"]), "vendor", None) == "postgresql"
        and not settings_dict.get("DISABLE_SERVER_SIDE_CURSORS")
    ):
        found.append(
            Problem(
                "django_db_pooling.W011",
                f'{where}["POOL"]["PROXY"] is "transaction", and server-side cursors are on: outside of '
                "atomic(), iterator() would look for its rows in another session.",
                f'Set {where}["DISABLE_SERVER_SIDE_CURSORS"] = True.',
            )
        )
    if limits.max_age != 0 and _says_no_age(settings_dict):
        found.append(
            Problem(
                "django_db_pooling.I005",
                f'{where}["CONN_MAX_AGE"] is 0, and connections of its pool live {_life(limits.max_age)}.',
                f'Nothing to do, if that is right. Else set {where}["POOL"]["MAX_AGE"], or "POOL" to False, '
                "which closes them after each request.",
            )
        )
    other = _other_pool(settings_dict["ENGINE"])
    if other is not None:
        found.append(
            Problem(
                "django_db_pooling.W009",
                f'{where}["ENGINE"] is {settings_dict["ENGINE"]!r}, which has its own pool ({other}).',
                f'Use Django\'s own backend, or set {where}["POOL"] = False to keep the other pool.',
            )
        )
    return found


def _says_no_age(settings_dict: Any) -> bool:
    """Whether the settings say ``"CONN_MAX_AGE": 0``, and no MAX_AGE.

    What they don't say Django has added: CONN_MAX_AGE after AUTOCOMMIT.
    """
    names, pool = list(settings_dict), settings_dict.get("POOL")
    if settings_dict.get("CONN_MAX_AGE") != 0 or "AUTOCOMMIT" not in names:
        return False
    is_said = names.index("CONN_MAX_AGE") < names.index("AUTOCOMMIT")
    return is_said and not (isinstance(pool, Mapping) and "MAX_AGE" in pool)


def _life(max_age: float | None) -> str:
    return "as long as they work" if max_age is None else f"{max_age:g} seconds"


def _other_pool(engine: str) -> str | None:
    backend = _backend(engine)
    bases = () if backend is None else inspect.getmro(backend)
    for name in (engine, *(base.__module__ for base in bases)):
        if _OTHER_POOL.search(name) and not name.startswith("django_db_pooling."):
            return name
    return None


def receiver_warnings() -> list[Problem]:
    """Receivers of connection_created that may expect it once per request."""
    found = []
    for receiver in foreign_receivers():
        name = getattr(receiver, "__qualname__", type(receiver).__qualname__)
        found.append(
            Problem(
                "django_db_pooling.W003",
                f"{receiver.__module__}.{name} receives connection_created, sent once per physical "
                "connection.",
                "What it sets for one request would also be seen by later ones. For that, receive "
                "django_db_pooling.signals.connection_checked_out instead.",
            )
        )
    return found


def unpatched_gevent() -> list[Problem]:
    """Known only in a greenlet, so no system check: when a pool's first caller is one."""
    if not green.is_unpatched():
        return []
    return [
        Problem(
            "django_db_pooling.W012",
            "Greenlets use the database, but gevent has patched nothing: each query blocks all of them, and "
            "they share one connection.",
            "Call gevent.monkey.patch_all() before anything else is imported; gunicorn -k gevent does.",
        )
    ]


def _messages(problems: list[Problem]) -> list[CheckMessage]:
    return [_LEVELS[_letter(p)][1](p.message, hint=p.hint, id=p.id) for p in problems]


@register
def check_pools(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    return _messages(settings_errors() + advice() + receiver_warnings())


@register(Tags.database, deploy=True)
def check_capacity(
    app_configs: Sequence[Any] | None, databases: Iterable[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """``manage.py check --deploy --database default``. Asks the server (I/O)."""
    if settings_errors():
        return []
    found = [problem for alias in databases or () if (problem := capacity.problem(alias))]
    return _messages(found + (capacity.unknown_sizes() if databases else []))
