"""Whether a server takes in what all processes together may open."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import SynchronousOnlyOperation
from django.db import Error, connections

from django_db_pooling import conf
from django_db_pooling.conf import Problem
from django_db_pooling.log import redact

# What decides whose limits an alias shares, but for the name of the database.
_SERVER = ("ENGINE", "HOST", "PORT")
_SETTINGS = ("DB_POOL_WORKERS", "DB_POOL_HOSTS")


def settings_errors() -> list[Problem]:
    return [
        Problem(
            "django_db_pooling.E006",
            f"{name} is {redact(repr(getattr(settings, name)))}.",
            "It must be a whole number, 1 or more: worker processes of a host, and hosts.",
        )
        for name in _SETTINGS
        if getattr(settings, name, None) is not None and not _is_count(getattr(settings, name))
    ]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def processes() -> int | None:
    """How many there are, as far as the settings, or gunicorn's environment, say so."""
    workers = getattr(settings, "DB_POOL_WORKERS", None)
    if workers is None:
        told = os.environ.get("WEB_CONCURRENCY", "")
        workers = int(told) if told.isdecimal() and int(told) else None
    hosts = getattr(settings, "DB_POOL_HOSTS", None) or 1
    return None if workers is None else workers * hosts


def problems(alias: str) -> list[Problem]:
    """What the server of an alias doesn't take in (I/O)."""
    wrapper: Any = connections[alias]
    if conf.is_off(wrapper.settings_dict) or wrapper.vendor not in VENDORS:
        return []
    was_open = wrapper.connection is not None
    try:
        with wrapper.cursor() as cursor:
            room, why = _least(asked(cursor, wrapper.vendor), wrapper.vendor)
    except (Error, OSError, SynchronousOnlyOperation) as error:
        return [
            Problem(
                "django_db_pooling.I002",
                f"The server of {alias!r} can't be asked how many connections it takes: {redact(error)}.",
                "Run the check where it can be reached.",
            )
        ]
    finally:
        if not was_open:
            wrapper.close()
    all_limits = [
        conf.limits_for(other, connections.settings[other])
        for other in connections.settings
        if not conf.is_off(connections.settings[other]) and _is_same_server(wrapper, other)
    ]
    least = sum(limits.min_size for limits in all_limits)
    if any(limits.max_outstanding is None for limits in all_limits):
        most = None
    else:
        most = sum(limits.max_outstanding or 0 for limits in all_limits)
    return _compared(alias, processes(), least, most, room, why)


def _least(capacity: Capacity, vendor: str) -> tuple[int, str]:
    """How many connections there are for the processes, and what says so."""
    most, reserved, own = capacity
    if vendor == "mysql":
        return min([(most - 1, f"max_connections {most}, less 1 for the administrator"), *own])
    return min([(most - reserved, f"max_connections {most}, less {reserved} reserved"), *own])


def _is_same_server(wrapper: Any, alias: str) -> bool:
    mine, other = wrapper.settings_dict, connections.settings[alias]
    return all(str(mine.get(key) or "") == str(other.get(key) or "") for key in _SERVER)


def _compared(
    alias: str, count: int | None, least: int, most: int | None, room: int, why: str
) -> list[Problem]:
    server = f"the server of {alias!r} takes {max(room, 0)} ({why})"
    if count is None:
        per_process = "any number of connections" if most is None else f"{most} connections"
        enough = "" if most is None else f" That is enough for {max(room, 0) // most} processes."
        return [
            Problem(
                "django_db_pooling.I001",
                f"A process may open {per_process}, and {server}.{enough}",
                "Set DB_POOL_WORKERS (and DB_POOL_HOSTS), or WEB_CONCURRENCY, to have this checked.",
            )
        ]
    if least * count > room:
        return [
            Problem(
                "django_db_pooling.W006",
                f"{count} processes keep {least * count} connections open by MIN_SIZE, and {server}.",
                "Lower MIN_SIZE and MAX_OUTSTANDING, or have fewer processes.",
            )
        ]
    if most is None or most * count > room:
        per_process = "any number of connections" if most is None else f"{most} connections"
        return [
            Problem(
                "django_db_pooling.W005",
                f"{count} processes may open {per_process} each, and {server}.",
                f"Lower MAX_OUTSTANDING to {max(room // count, 1)} or less, or raise the server's limit; "
                "leave some for cron jobs, deployments and whoever has to look.",
            )
        ]
    return []


class Capacity(NamedTuple):
    """What a server says of itself. ``reserved``: connections for superusers, of the ``most`` for all.

    ``own``: what else bounds whoever asks, connections and what says so.
    """

    most: int
    reserved: int
    own: list[tuple[int, str]]


def asked(cursor: Any, vendor: str) -> Capacity:
    """What the server of this cursor says (I/O). ``vendor``: one of ``VENDORS``."""
    return _ASKING[vendor](cursor)


def _mysql(cursor: Any) -> Capacity:
    cursor.execute("SELECT @@max_connections, @@max_user_connections")
    most, of_user = map(int, cursor.fetchone())
    # 0: no limit.
    return Capacity(most, 0, [(of_user, f"max_user_connections {of_user}")] if of_user else [])


def _postgresql(cursor: Any) -> Capacity:
    # reserved_connections: since PostgreSQL 16.
    cursor.execute(
        "SELECT current_setting('max_connections'), current_setting('superuser_reserved_connections'), "
        "coalesce(current_setting('reserved_connections', true), '0'), "
        "(SELECT rolconnlimit FROM pg_roles WHERE rolname = session_user), "
        "(SELECT datconnlimit FROM pg_database WHERE datname = current_database())"
    )
    most, reserved, for_roles, of_role, of_database = map(int, cursor.fetchone())
    # -1: no limit.
    own = [(of_role, f"CONNECTION LIMIT {of_role} of the role")] if of_role >= 0 else []
    own += [(of_database, f"CONNECTION LIMIT {of_database} of the database")] if of_database >= 0 else []
    return Capacity(most, reserved + for_roles, own)


_ASKING = {"mysql": _mysql, "postgresql": _postgresql}
VENDORS = frozenset(_ASKING)
