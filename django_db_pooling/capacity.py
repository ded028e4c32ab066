"""Does a server accept all connections that the processes may open? For the check and ``db_pools --plan``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import SynchronousOnlyOperation
from django.db import Error, connections

from django_db_pooling import conf
from django_db_pooling.conf import Problem
from django_db_pooling.log import redact, safe_label
from django_db_pooling.process import concurrency

_CALL = re.compile(r"\bset_pool_size\s*\(")
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
    # What all processes of a host may open together; None: no HOST_LIMIT.
    host_limit: int | None = None
    # By running processes, which know what set_pool_size() was given. Otherwise by the settings.
    is_reported: bool = True

    def named(self, limit: int | None) -> str:
        """One of its limits."""
        number = "unlimited" if limit is None else limit
        return f"{safe_label(self.alias)} {number}{'' if self.is_reported else ' (from settings)'}"

    def of_processes(self, workers: int | None) -> int | None:
        """What so many processes of a host may open; None: any number, or nobody knows how many they are."""
        return None if self.maximum is None or workers is None else self.maximum * workers

    def is_of_host(self, workers: int | None) -> bool:
        """Whether it is HOST_LIMIT that bounds what they may open on a host."""
        of_processes = self.of_processes(workers)
        return self.host_limit is not None and (of_processes is None or self.host_limit <= of_processes)


@dataclass(frozen=True, slots=True)
class Demand:
    """What all processes together may open on a server, compared with its limit.

    An alias with a HOST_LIMIT counts once for each host, the others once for each process; one whose
    processes can't reach their HOST_LIMIT is among the others. ``workers``: processes of each host; None:
    nobody knows.
    """

    limit: Limit
    shares: list[Share]
    hosts: int
    workers: int | None

    @property
    def of_hosts(self) -> list[Share]:
        return [share for share in self.shares if share.is_of_host(self.workers)]

    @property
    def of_processes(self) -> list[Share]:
        return [share for share in self.shares if not share.is_of_host(self.workers)]

    @property
    def per_host(self) -> int:
        """By HOST_LIMIT; each process may open others."""
        return sum(share.host_limit or 0 for share in self.of_hosts)

    @property
    def per_process(self) -> int | None:
        """Besides what HOST_LIMIT bounds."""
        found = [share.maximum for share in self.of_processes]
        return None if None in found else sum(filter(None, found))

    @property
    def total(self) -> int | None:
        """None: any number, or the number of processes matters and isn't known."""
        if not self.of_processes:
            return self.hosts * self.per_host
        if self.per_process is None or self.workers is None:
            return None
        return self.hosts * (self.per_host + self.workers * self.per_process)

    @property
    def minimum(self) -> int:
        """As far as it is known: MIN_SIZE of a process is within its part of HOST_LIMIT."""
        kept = [(share.minimum * (self.workers or 0), share.host_limit) for share in self.shares]
        return self.hosts * sum(number if most is None else min(number, most) for number, most in kept)

    @property
    def fits(self) -> bool:
        return self.total is not None and self.total <= self.limit.connections

    @property
    def fitting(self) -> int | None:
        """What each process could have, or each host where HOST_LIMIT bounds all; None: some of each."""
        if self.of_hosts and self.of_processes:
            return None
        count = self.hosts * (self.workers or 1) if self.of_processes else self.hosts
        return max(0, self.limit.connections) // count


class Reported(NamedTuple):
    """What each running process may open of an alias, and its HOST_LIMIT; None: any number, none."""

    max_outstanding: int | None
    host_limit: int | None


def servers(reported: Mapping[str, Reported]) -> dict[Server, list[Share]]:
    """All servers that limit their connections, with the pools that use them.

    ``reported``: by alias, where it is known.
    """
    found: dict[Server, list[Share]] = {}
    for alias, settings_dict in connections.settings.items():
        server = server_of(alias)
        if server is not None:
            limits = conf.limits_for(alias, settings_dict)
            known = reported.get(alias)
            if known is None:
                most = concurrency.bounded(limits.max_outstanding, concurrency.callers())
                known = Reported(most, limits.host_limit)
            share = Share(alias, known.max_outstanding, limits.min_size, known.host_limit, alias in reported)
            found.setdefault(server, []).append(share)
    return found


def server_of(alias: str) -> Server | None:
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


def hosts() -> int:
    return int(getattr(settings, "DB_POOL_HOSTS", None) or 1)


def workers() -> int | None:
    """How many processes there are on each host, as far as the settings or the web server's say so."""
    count: int | None = getattr(settings, "DB_POOL_WORKERS", None)
    return concurrency.workers() if count is None else count


def sized_elsewhere() -> str | None:
    """The module of the site's application, if that calls set_pool_size(); None where nothing is unknown.

    Looks at the text: nobody runs wsgi.py for a check.
    """
    if conf.is_overridden():
        # Here it was called, too.
        return None
    for name in ("WSGI_APPLICATION", "ASGI_APPLICATION"):
        module = str(getattr(settings, name, None) or "").rpartition(".")[0]
        try:
            spec = find_spec(module) if module else None
            if spec is not None and _CALL.search(Path(spec.origin or "").read_text(errors="replace")):
                return module
        except (ImportError, OSError, ValueError):
            continue
    return None


def unknown_sizes() -> list[Problem]:
    module = sized_elsewhere()
    if module is None:
        return []
    return [
        Problem(
            "django_db_pooling.I004",
            f"{module} calls set_pool_size(), which is not known here: this counts with the settings.",
            'Set the limits in DATABASES[...]["POOL"], or ask the running site: manage.py db_pools --plan.',
        )
    ]


def problem(alias: str) -> Problem | None:
    """What is too much for the server of an alias (I/O)."""
    server = server_of(alias)
    if server is None:
        return None
    try:
        limit = ask(alias)
    except (Error, OSError, SynchronousOnlyOperation) as error:
        return Problem(
            "django_db_pooling.I002",
            f"The server of {alias!r} can't be asked for its connection limit: {redact(error)}.",
            "Run the check where the server can be reached and accepts the login.",
        )
    demand = Demand(limit, servers({})[server], hosts(), workers())
    accepts = f"the server of {alias!r} accepts {limit}"
    if demand.workers is None and demand.of_processes:
        return Problem(
            "django_db_pooling.I001",
            f"Each process may open {_each(demand)}{_besides(demand)}, and {accepts}.{_enough(demand)}",
            "Set DB_POOL_WORKERS (and DB_POOL_HOSTS), or WEB_CONCURRENCY, to have this checked.",
        )
    count = demand.hosts * (demand.workers or 0)
    if demand.minimum > max(0, limit.connections):
        return Problem(
            "django_db_pooling.W006",
            f"{count} processes keep {demand.minimum} connections open (MIN_SIZE), and {accepts}.",
            "Lower MIN_SIZE and MAX_OUTSTANDING, or run fewer processes.",
        )
    if not demand.fits:
        may_open = (
            f"{count} processes may open {_each(demand)} each{_besides(demand)}"
            if demand.of_processes
            else f"All processes of a host may open {demand.per_host} connections (HOST_LIMIT), "
            f"there {'is 1 host' if demand.hosts == 1 else f'are {demand.hosts} hosts'}"
        )
        return Problem(
            "django_db_pooling.W005",
            f"{may_open}, and {accepts}.",
            f"{_remedy(demand)}, or raise the server's limit. "
            "Leave some connections for cron jobs, deployments and administrators.",
        )
    return None


def _each(demand: Demand) -> str:
    return f"{'any number of' if demand.per_process is None else demand.per_process} connections"


def _besides(demand: Demand) -> str:
    return f", besides {demand.per_host} of each host (HOST_LIMIT)" if demand.of_hosts else ""


def _enough(demand: Demand) -> str:
    if demand.per_process is None:
        return ""
    left = max(0, demand.limit.connections - demand.hosts * demand.per_host)
    count = left // demand.per_process
    return f" Enough for {count} process{'' if count == 1 else 'es'}."


def _remedy(demand: Demand) -> str:
    if demand.fitting is None:
        return "Lower HOST_LIMIT or MAX_OUTSTANDING"
    if demand.of_processes and demand.fitting < len(demand.shares):
        return "Run fewer processes"
    name = "MAX_OUTSTANDING" if demand.of_processes else "HOST_LIMIT"
    return f"Lower {name} to {max(demand.fitting, 1)} or less{' in total' if len(demand.shares) > 1 else ''}"


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
