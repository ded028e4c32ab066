"""Does a server accept all connections that the processes may open? For the check and ``db_pools --plan``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import SynchronousOnlyOperation
from django.db import Error, connections

from django_db_pooling import conf
from django_db_pooling.conf import Problem
from django_db_pooling.log import redact, safe_label

_SETTINGS = ("DB_POOL_WORKERS", "DB_POOL_HOSTS")


class Server(NamedTuple):
    """A database server. Aliases with the same one share its connections, whatever databases they use."""

    vendor: str
    host: str
    port: str

    def __str__(self) -> str:
        where = redact(f"{self.host or 'localhost'}{f':{self.port}' if self.port else ''}")
        return f"{_VENDORS[self.vendor].name} at {where}"


class Limit(NamedTuple):
    """How many connections a server accepts from all clients together, and which of its settings says so."""

    connections: int
    source: str

    def __str__(self) -> str:
        return f"{max(0, self.connections)} ({self.source})"


class Share(NamedTuple):
    """What an alias may open in each process (None: any number), and keeps open by MIN_SIZE."""

    alias: str
    maximum: int | None
    minimum: int = 0
    # By running processes, which know what set_pool_size() was given. Otherwise by the settings.
    is_reported: bool = True

    def __str__(self) -> str:
        maximum = "unlimited" if self.maximum is None else self.maximum
        return f"{safe_label(self.alias)} {maximum}{'' if self.is_reported else ' (from settings)'}"


@dataclass(frozen=True, slots=True)
class Demand:
    """What all processes together may open on a server, compared with its limit."""

    limit: Limit
    shares: list[Share]
    processes: int

    @property
    def per_process(self) -> int | None:
        found = [share.maximum for share in self.shares]
        return None if None in found else sum(filter(None, found))

    @property
    def total(self) -> int | None:
        return None if self.per_process is None else self.per_process * self.processes

    @property
    def minimum(self) -> int:
        return sum(share.minimum for share in self.shares) * self.processes

    @property
    def fits(self) -> bool:
        return self.total is not None and self.total <= self.limit.connections

    @property
    def fitting(self) -> int:
        """How many connections each process could have."""
        return max(0, self.limit.connections) // self.processes


def servers(reported: Mapping[str, int | None]) -> dict[Server, list[Share]]:
    """All servers that limit their connections, with the pools that use them.

    ``reported``: by alias, the max_outstanding of running processes where it is known.
    """
    found: dict[Server, list[Share]] = {}
    for alias, settings_dict in connections.settings.items():
        server = _server(alias)
        if server is not None:
            limits = conf.limits_for(alias, settings_dict)
            maximum = reported.get(alias, limits.max_outstanding)
            share = Share(alias, maximum, limits.min_size, alias in reported)
            found.setdefault(server, []).append(share)
    return found


def _server(alias: str) -> Server | None:
    """None: not pooled, has no such limit, or can't be loaded, and Django says why."""
    settings_dict = connections.settings[alias]
    if conf.proxy(settings_dict) == conf.TRANSACTION:
        # How many of ours there may be the proxy says, not the server.
        return None
    try:
        vendor = None if conf.is_off(settings_dict) else connections[alias].vendor
    except Exception:
        return None
    host, port = settings_dict["HOST"] or "", str(settings_dict["PORT"] or "")
    return Server(vendor, host, port) if vendor in _VENDORS else None


def ask(alias: str) -> Limit:
    """Ask the server of an alias for its limit (I/O). The lowest of the server, the user and the database."""
    wrapper: Any = connections[alias]
    was_open = wrapper.connection is not None
    try:
        with wrapper.cursor() as cursor:
            return min(_VENDORS[wrapper.vendor].limits(cursor))
    finally:
        if not was_open:
            wrapper.close()


def settings_errors() -> list[Problem]:
    return [
        Problem(
            "django_db_pooling.E006",
            f"{name} is {redact(repr(getattr(settings, name)))}.",
            "It must be a whole number, 1 or more.",
        )
        for name in _SETTINGS
        if getattr(settings, name, None) is not None and not _is_count(getattr(settings, name))
    ]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def processes() -> int | None:
    """How many there are on all hosts, as far as the settings or gunicorn's environment say so."""
    workers = getattr(settings, "DB_POOL_WORKERS", None)
    if workers is None:
        value = os.environ.get("WEB_CONCURRENCY", "")
        workers = int(value) if value.isdecimal() and int(value) else None
    hosts = getattr(settings, "DB_POOL_HOSTS", None) or 1
    return None if workers is None else workers * hosts


def problem(alias: str) -> Problem | None:
    """What is too much for the server of an alias (I/O)."""
    server = _server(alias)
    if server is None:
        return None
    try:
        limit = ask(alias)
    except (Error, OSError, SynchronousOnlyOperation) as error:
        return Problem(
            "django_db_pooling.I002",
            f"The server of {alias!r} can't be asked for its connection limit: {redact(error)}.",
            "Run the check where the server can be reached.",
        )
    count = processes()
    demand = Demand(limit, servers({})[server], count or 1)
    accepts = f"the server of {alias!r} accepts {limit}"
    each = f"{'any number of' if demand.per_process is None else demand.per_process} connections"
    if count is None:
        enough = (
            ""
            if demand.per_process is None
            else f" Enough for {demand.fitting // demand.per_process} processes."
        )
        return Problem(
            "django_db_pooling.I001",
            f"Each process may open {each}, and {accepts}.{enough}",
            "Set DB_POOL_WORKERS (and DB_POOL_HOSTS), or WEB_CONCURRENCY, to have this checked.",
        )
    if demand.minimum > limit.connections:
        return Problem(
            "django_db_pooling.W006",
            f"{count} processes keep {demand.minimum} connections open (MIN_SIZE), and {accepts}.",
            "Lower MIN_SIZE and MAX_OUTSTANDING, or run fewer processes.",
        )
    if not demand.fits:
        return Problem(
            "django_db_pooling.W005",
            f"{count} processes may open {each} each, and {accepts}.",
            f"Lower MAX_OUTSTANDING to {max(demand.fitting, 1)} or less, or raise the server's limit. "
            "Leave some connections for cron jobs, deployments and administrators.",
        )
    return None


def _mysql(cursor: Any) -> list[Limit]:
    # Administrators have one more than max_connections.
    cursor.execute("SELECT @@max_connections, @@max_user_connections")
    of_all, of_user = map(int, cursor.fetchone())
    found = [Limit(of_all, f"max_connections {of_all}")]
    # 0: no limit.
    return [*found, Limit(of_user, f"max_user_connections {of_user}")] if of_user else found


def _postgresql(cursor: Any) -> list[Limit]:
    # reserved_connections: since PostgreSQL 16.
    cursor.execute(
        "SELECT current_setting('max_connections'), current_setting('superuser_reserved_connections'), "
        "coalesce(current_setting('reserved_connections', true), '0'), "
        "(SELECT rolconnlimit FROM pg_roles WHERE rolname = session_user), "
        "(SELECT datconnlimit FROM pg_database WHERE datname = current_database())"
    )
    of_all, for_superusers, for_roles, of_role, of_database = map(int, cursor.fetchone())
    reserved = for_superusers + for_roles
    own = (
        Limit(of_role, f"CONNECTION LIMIT {of_role} of the role"),
        Limit(of_database, f"CONNECTION LIMIT {of_database} of the database"),
    )
    # -1: no limit.
    return [
        Limit(of_all - reserved, f"max_connections {of_all}, less {reserved} reserved"),
        *(limit for limit in own if limit.connections >= 0),
    ]


class _Vendor(NamedTuple):
    name: str
    limits: Callable[[Any], list[Limit]]


_VENDORS = {"mysql": _Vendor("MySQL or MariaDB", _mysql), "postgresql": _Vendor("PostgreSQL", _postgresql)}
