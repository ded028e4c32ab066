"""Whether the servers take what all processes may open together. Asks the servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.core.management.base import CommandError
from django.db import Error, connections

from django_db_pooling import capacity, conf, owner
from django_db_pooling.log import label, redact
from django_db_pooling.workers.overview import Overview

# Seconds that are spent on getting a connection to ask with.
PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Share:
    """What an alias may open in each process; None: any number. ``heard``: processes say so themselves."""

    alias: str
    each: int | None
    heard: bool = True

    def __str__(self) -> str:
        said = f"{label(self.alias)} {'no limit' if self.each is None else self.each}"
        return said if self.heard else f"{said} by its settings"


@dataclass(frozen=True, slots=True)
class Plan:
    """A server, and all pools that connect to it. ``takes``: as many connections from all clients."""

    server: str
    takes: int
    reserved: int
    shares: list[Share]
    processes: int
    hosts: int

    @property
    def each(self) -> int | None:
        """Connections of one process."""
        found = [share.each for share in self.shares]
        return None if None in found else sum(filter(None, found))

    @property
    def all(self) -> int | None:
        return None if self.each is None else self.each * self.processes * self.hosts

    @property
    def fits(self) -> bool:
        return self.all is not None and self.all <= self.takes - self.reserved

    def lines(self) -> list[str]:
        """For people."""
        aliases = ", ".join(map(str, self.shares))
        room = self.takes - self.reserved
        reserved = f", {self.reserved} of them reserved for superusers" if self.reserved else ""
        lines = [
            f"{self.server}",
            f"  the server takes    {self.takes}{reserved}",
            f"  a process may open  {aliases}",
        ]
        if self.all is None:
            return [*lines, "  all together        any number: does not fit, set MAX_OUTSTANDING"]
        product = f"{self.hosts} x {self.processes} x {self.each} = {self.all}"
        lines.append(f"  all together        {product} (hosts x processes x connections)")
        if self.fits:
            lines.append(f"  fits, and leaves    {room - self.all} for others")
        else:
            best = room // (self.processes * self.hosts)
            lines.append(f"  does not fit        {self.all - room} too many; {best} for each process would")
        return lines


def plans(seen: Overview, hosts: int, processes: int) -> list[Plan]:
    """One for each server that says how many it takes. Raises CommandError where it can't be asked."""
    by_server: dict[tuple[Any, ...], list[Share]] = {}
    told = {pool.alias: pool for pool in seen.pools}
    for alias, settings_dict in connections.settings.items():
        if conf.is_off(settings_dict) or connections[alias].vendor not in capacity.VENDORS:
            continue
        pool = told.get(alias)
        most = (
            [member.stats.max_outstanding for member in pool.members]
            if pool
            else [conf.limits_for(alias, settings_dict).max_outstanding]
        )
        each = None if None in most else max(filter(None, most))
        server = (connections[alias].vendor, settings_dict["HOST"], str(settings_dict["PORT"]))
        by_server.setdefault(server, []).append(Share(alias, each, pool is not None))
    found = []
    for (vendor, host, port), shares in by_server.items():
        takes, reserved = _ask(shares[0].alias, vendor)
        where = redact(f"{host or 'localhost'}{f':{port}' if port else ''}")
        name = {"mysql": "MySQL or MariaDB", "postgresql": "PostgreSQL"}[vendor]
        found.append(Plan(f"{name} at {where}", takes, reserved, shares, processes, hosts))
    return found


def _ask(alias: str, vendor: str) -> tuple[int, int]:
    """How many connections the server takes, and how many of these it keeps for superusers."""
    try:
        with owner.max_wait(PATIENCE), connections[alias].cursor() as cursor:
            most, reserved, own = capacity.asked(cursor, vendor)
    except Error as error:
        raise CommandError(
            f"The server of {alias!r} can't be asked: {redact(error)}", returncode=1
        ) from error
    # What bounds this user bounds all processes; nothing of that is reserved.
    least = min((limit for limit, _ in own), default=most)
    return (least, 0) if least < most - reserved else (most, reserved)
