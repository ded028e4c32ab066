"""Do the servers accept all connections that the processes may open? Asks the servers."""

from __future__ import annotations

from django.core.management.base import CommandError
from django.db import Error

from django_db_pooling import capacity, owner
from django_db_pooling.capacity import Demand, Limit, Server
from django_db_pooling.log import redact
from django_db_pooling.workers.overview import Overview

# Seconds to wait for a connection to ask with.
MAX_WAIT = 5.0


def demands(seen: Overview, processes: int) -> dict[Server, Demand]:
    """For each server that limits its connections. Raises CommandError where it can't be asked."""
    reported: dict[str, int | None] = {}
    for pool in seen.pools:
        found = [member.stats.max_outstanding for member in pool.members]
        reported[pool.alias] = None if None in found else max(filter(None, found))
    return {
        server: Demand(_ask(shares[0].alias), shares, processes)
        for server, shares in capacity.servers(reported).items()
    }


def _ask(alias: str) -> Limit:
    try:
        with owner.max_wait(MAX_WAIT):
            return capacity.ask(alias)
    except Error as error:
        raise CommandError(
            f"The server of {alias!r} can't be asked for its connection limit: {redact(error)}", returncode=1
        ) from error


def lines(server: Server, demand: Demand, hosts: int) -> list[str]:
    """``hosts``: as many as the processes are on."""
    limit = demand.limit
    text = [
        f"{server}",
        f"  limit         {limit}",
        f"  each process  {', '.join(map(str, demand.shares))}",
    ]
    if demand.total is None:
        return [*text, "  total         unlimited: does not fit, set MAX_OUTSTANDING"]
    product = f"{hosts} x {demand.processes // hosts} x {demand.per_process} = {demand.total}"
    text.append(f"  total         {product} (hosts x processes x connections)")
    if demand.fits:
        return [*text, f"  fits          leaves {limit.connections - demand.total} for others"]
    too_many = demand.total - max(0, limit.connections)
    return [*text, f"  does not fit  {too_many} too many; {demand.fitting} per process would fit"]
