"""The limits of a pool, from ``DATABASES[alias]["POOL"]``, ``CONN_MAX_AGE`` and ``set_pool_size()``."""

from __future__ import annotations

import numbers
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from django.conf import ENVIRONMENT_VARIABLE, settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from django_db_pooling import synonyms
from django_db_pooling.log import redact
from django_db_pooling.pool.limits import Limits

# An entry of DATABASES, in which keys may be missing.
Settings = Mapping[str, Any]


# Django's backend of an alias without an ENGINE.
DUMMY = "django.db.backends.dummy"

# The scopes: a connection is held to the end of the request, or only as long as a transaction needs it.
REQUEST, TRANSACTION = "request", "transaction"
# What a proxy lends a connection of the server's for: a transaction (TRANSACTION), or as long as ours lasts.
SESSION = "session"


class Unchanged:
    """The default of an argument that, left out, changes nothing."""

    def __repr__(self) -> str:
        return "<unchanged>"


UNCHANGED = Unchanged()


class Problem(NamedTuple):
    """Something wrong with the settings. The system checks report it, ``patch()`` raises or logs it."""

    id: str
    message: str
    hint: str


def _count(minimum: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _seconds(value: Any) -> bool:
    # A lock can't wait for longer. None means no limit.
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and 0 <= value <= threading.TIMEOUT_MAX


def is_duration(value: Any) -> bool:
    """Seconds, more than none."""
    return _seconds(value) and value > 0


def _host_limit(value: Any) -> bool:
    return _count(1)(value) and value <= 65536


def _one_of(*values: str | None) -> Callable[[Any], bool]:
    return lambda value: value in values


def _or_none(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or accepts(value)


def _callable(value: Any) -> bool:
    if isinstance(value, str):
        try:
            value = import_string(value)
        except ImportError:
            return False
    return callable(value)


class _Key(NamedTuple):
    # The field of Limits; None: it has none, other functions of this module read it.
    field: str | None
    accepts: Callable[[Any], bool]
    expected: str


_KEYS = {
    "SIZE": _Key("size", _count(1), "a whole number, 1 or more"),
    "MAX_OUTSTANDING": _Key("max_outstanding", _or_none(_count(1)), "a whole number, SIZE or more, or None"),
    "HOST_LIMIT": _Key("host_limit", _or_none(_host_limit), "a whole number from 1 to 65536, or None"),
    "TIMEOUT": _Key("timeout", _or_none(_seconds), "seconds, 0 or more, or None"),
    "MIN_SIZE": _Key("min_size", _count(0), "a whole number from 0 to SIZE"),
    "IDLE_TIMEOUT": _Key("idle_timeout", _or_none(_seconds), "seconds, 0 or more, or None"),
    "MAX_AGE": _Key("max_age", _or_none(_seconds), "seconds, 0 or more, or None"),
    "MAX_WAITING": _Key("max_waiting", _or_none(_count(0)), "a whole number, 0 or more, or None"),
    "WAIT_TARGET": _Key("wait_target", _or_none(is_duration), "seconds, above 0, or None"),
    "CONNECT_RETRY": _Key("connect_retry", _seconds, "seconds, 0 or more"),
    "KEEPALIVE": _Key("keepalive", _or_none(_seconds), "seconds, 0 or more, or None"),
    "PING": _Key("ping", _or_none(_seconds), "seconds, 0 or more, or None"),
    "FOLLOW_HOST": _Key("follow_host", _or_none(_seconds), "seconds, 0 or more, or None"),
    "LEAK_THRESHOLD": _Key("leak_threshold", _or_none(_seconds), "seconds, 0 or more, or None"),
    "SLOW_CHECKOUT": _Key("slow_checkout", _or_none(_seconds), "seconds, 0 or more, or None"),
    "CANCEL": _Key("cancel", lambda value: isinstance(value, bool), "True or False"),
    "SCOPE": _Key(None, _one_of(REQUEST, TRANSACTION), "'request' or 'transaction'"),
    "CREDENTIALS": _Key(None, _or_none(_callable), "a callable, the dotted path of one, or None"),
    "RESET": _Key(None, _one_of("auto", "always", "never", "close"), "'auto', 'always', 'never' or 'close'"),
    "LABEL": _Key(None, lambda value: isinstance(value, bool), "True or False"),
    "PROXY": _Key(None, _one_of(None, TRANSACTION, SESSION), "'transaction', 'session' or None"),
}


class _Override(NamedTuple):
    """What the calls of set_pool_size() have set."""

    # Fields of Limits.
    values: dict[str, Any]
    # Since max_outstanding was last given. It is raised to the largest size, and never lowered again.
    largest_size: int


# By alias; None: for all aliases.
_overrides: dict[str | None, _Override] = {}


def is_off(settings_dict: Settings) -> bool:
    """Whether an alias isn't pooled: ``POOL = False``, or no database at all."""
    return settings_dict.get("POOL") is False or settings_dict.get("ENGINE") == DUMMY


def pooled(databases: Mapping[str, Settings]) -> dict[str, Settings]:
    """Of these aliases, by name."""
    return {alias: settings_dict for alias, settings_dict in databases.items() if not is_off(settings_dict)}


def problems(alias: str, settings_dict: Settings) -> list[Problem]:
    """Everything that is wrong with the pool settings of one alias."""
    found = []
    pool = settings_dict.get("POOL")
    where = f"DATABASES[{alias!r}]"
    if not (pool is None or isinstance(pool, bool | Mapping)):
        found.append(
            Problem(
                "django_db_pooling.E001",
                f'{where}["POOL"] is {redact(repr(pool))}.',
                'Use a dict such as {"SIZE": 10, "MAX_OUTSTANDING": 20}, or False for no pooling.',
            )
        )
    if isinstance(pool, Mapping):
        found += _bad_values(where, pool)
    age = settings_dict.get("CONN_MAX_AGE", 0)
    if not (age is None or isinstance(age, numbers.Real)):
        found.append(
            Problem(
                "django_db_pooling.E003",
                f'{where}["CONN_MAX_AGE"] is {redact(repr(age))}.',
                "It must be seconds, or None.",
            )
        )
    if not is_off(settings_dict) and (settings_dict.get("OPTIONS") or {}).get("pool"):
        found.append(
            Problem(
                "django_db_pooling.E004",
                f'{where}["OPTIONS"]["pool"] is Django\'s own pool. Only one pool per alias is possible.',
                f'Remove OPTIONS["pool"], or set {where}["POOL"] = False to use Django\'s.',
            )
        )
    return found


def _bad_values(where: str, pool: Mapping[str, Any]) -> list[Problem]:
    found = []
    for name, value in pool.items():
        key = _KEYS.get(name)
        if key is None:
            found.append(
                Problem(
                    "django_db_pooling.E002",
                    f'{where}["POOL"] has the unknown key {redact(repr(name))}.',
                    f"{synonyms.hint(name, _KEYS)} Keys are {', '.join(_KEYS)}.".lstrip(),
                )
            )
        elif not key.accepts(value):
            found.append(_bad_value(where, name, value))
    if not found:
        limits = _from_pool(pool)
        if limits.max_outstanding is not None and limits.max_outstanding < limits.size:
            found.append(_bad_value(where, "MAX_OUTSTANDING", limits.max_outstanding, limits.size))
        if limits.min_size > limits.size:
            found.append(_bad_value(where, "MIN_SIZE", limits.min_size, limits.size))
    return found


def _bad_value(where: str, name: str, value: Any, size: int | None = None) -> Problem:
    """``size``: where that is what the value doesn't go with."""
    expected = _KEYS[name].expected
    if size is not None:
        expected = expected.replace("SIZE", f"SIZE ({size})")
    return Problem(
        "django_db_pooling.E003",
        f'{where}["POOL"][{name!r}] is {redact(repr(value))}.',
        f"It must be {expected}.",
    )


def _from_pool(pool: Mapping[str, Any]) -> Limits:
    values = {field: value for name, value in pool.items() if (field := _KEYS[name].field) is not None}
    limits = Limits(**values)
    if "MAX_OUTSTANDING" not in pool and limits.host_limit is not None:
        limits = replace(limits, max_outstanding=limits.host_limit)
    if "MAX_OUTSTANDING" not in pool:
        limits = replace(limits, max_outstanding=_at_least(limits.max_outstanding, limits.size))
    return limits


def _at_least(maximum: int | None, size: int) -> int | None:
    return None if maximum is None else max(maximum, size)


def limits_for(alias: str, settings_dict: Settings) -> Limits:
    """The limits of an alias. Raises ImproperlyConfigured if its settings are wrong."""
    reject(problems(alias, settings_dict))
    pool = settings_dict.get("POOL")
    limits = _from_pool(pool if isinstance(pool, Mapping) else {})
    age = settings_dict.get("CONN_MAX_AGE", 0)
    if age is None or age > 0:
        limits = replace(limits, max_age=age)
    for key in (None, alias):
        override = _overrides.get(key)
        if override is not None:
            limits = replace(limits, **override.values)
            minimum = max(limits.size, override.largest_size)
            limits = replace(limits, max_outstanding=_at_least(limits.max_outstanding, minimum))
    return replace(limits, min_size=min(limits.min_size, limits.size))


def _of_pool(settings_dict: Settings, key: str, default: Any = None) -> Any:
    """What POOL says of this; ``default``: if it doesn't."""
    pool = settings_dict.get("POOL")
    return pool.get(key, default) if isinstance(pool, Mapping) else default


def reset_mode(settings_dict: Settings) -> str:
    """When sessions are reset: ``"auto"``, ``"always"`` or ``"never"``, or closed instead: ``"close"``."""
    if proxy(settings_dict) == TRANSACTION:
        # It would be somebody else's.
        return "never"
    return str(_of_pool(settings_dict, "RESET", "auto"))


def proxy(settings_dict: Settings) -> str | None:
    """What a proxy in front of the server lends its connections for: TRANSACTION, SESSION; None: no proxy."""
    found: str | None = _of_pool(settings_dict, "PROXY")
    return found


def place(settings_dict: Settings) -> str:
    """Which database, and where, for people."""
    host, port = settings_dict.get("HOST") or "", settings_dict.get("PORT") or ""
    where = f" at {host}{f':{port}' if port else ''}" if host or port else ""
    kind = str(settings_dict.get("ENGINE")).rpartition(".")[2]
    return redact(f"{kind} {settings_dict.get('NAME') or ''}{where}")


def scope(settings_dict: Settings, default: str = REQUEST) -> str:
    """The scope of requests. ``default``: if the settings don't say."""
    return str(_of_pool(settings_dict, "SCOPE", default))


def credentials(settings_dict: Settings) -> Callable[[str], Mapping[str, Any]] | None:
    """What is called before each connect, with the alias: gives the user, the password or options."""
    found: str | Callable[[str], Mapping[str, Any]] | None = _of_pool(settings_dict, "CREDENTIALS")
    return import_string(found) if isinstance(found, str) else found


def label(settings_dict: Settings) -> bool:
    """Whether sessions are named after this process."""
    return bool(_of_pool(settings_dict, "LABEL", False))


def there_are_settings() -> bool:
    """Whether the project's have been read, or it is known which these are."""
    return bool(settings.configured or os.environ.get(ENVIRONMENT_VARIABLE))


def reject(found: list[Problem]) -> None:
    """Raise ImproperlyConfigured with all problems, if any."""
    if found:
        raise ImproperlyConfigured("\n".join(f"{p.message} {p.hint} ({p.id})" for p in found))


def override(
    size: int,
    max_outstanding: int | None | Unchanged,
    timeout: float | None | Unchanged,
    alias: str | None,
) -> None:
    """Set limits that take precedence over the settings. A ValueError names the wrong argument."""
    if not _count(1)(size):
        raise ValueError(f"size must be a whole number, 1 or more, not {size!r}")
    values: dict[str, Any] = {"size": size}
    if not isinstance(max_outstanding, Unchanged):
        if not _or_none(_count(size))(max_outstanding):
            raise ValueError(
                f"max_outstanding must be a whole number, size ({size}) or more, or None, "
                f"not {max_outstanding!r}"
            )
        values["max_outstanding"] = max_outstanding
    if not isinstance(timeout, Unchanged):
        _check_timeout(timeout)
        values["timeout"] = timeout
    before = _overrides.get(alias, _Override({}, 0))
    largest_size = 0 if "max_outstanding" in values else max(size, before.largest_size)
    _overrides[alias] = _Override(before.values | values, largest_size)


def check_warm_up(connections: Any, timeout: Any) -> None:
    """A ValueError names the wrong argument of warm_up()."""
    if not _or_none(_count(1))(connections):
        raise ValueError(f"connections must be a whole number, 1 or more, or None, not {connections!r}")
    _check_timeout(timeout)


def _check_timeout(timeout: Any) -> None:
    if not _or_none(_seconds)(timeout):
        raise ValueError(f"timeout must be seconds, 0 or more, or None, not {timeout!r}")


def is_overridden() -> bool:
    """Whether set_pool_size() was called."""
    return bool(_overrides)


def overridden_aliases() -> list[str]:
    return [alias for alias in _overrides if alias is not None]
