"""Do the servers accept all connections that the processes may open? Asks the servers."""

from __future__ import annotations

from django.core.management.base import CommandError
from django.db import Error

from django_db_pooling import capacity, owner
from django_db_pooling.capacity import Demand, Limit, Reported, Server, Share
from django_db_pooling.log import redact
from django_db_pooling.process import concurrency
from django_db_pooling.workers.overview import Member, Overview, PoolPicture

# Seconds to wait for a connection to ask with.
MAX_WAIT = 5.0


def servers(seen: Overview) -> dict[Server, list[Share]]:
    """Those that limit their connections, with the pools that use them."""
    return capacity.servers({pool.alias: _reported(pool) for pool in seen.pools})


def _reported(pool: PoolPicture) -> Reported:
    """The most that any of the processes may open."""
    return Reported(
        _most([_opens(member) for member in pool.members]),
        _most([member.stats.host_limit for member in pool.members]),
    )


def _opens(member: Member) -> int | None:
    """A sync worker, for example, has one caller, and threads of the site's own may be others."""
    stats, callers = member.stats, member.callers
    there = stats.in_use + stats.idle + stats.opening
    return concurrency.bounded(stats.max_outstanding, None if callers is None else max(callers, there))


def few_callers(seen: Overview) -> str | None:
    """Why a process counts with less than its MAX_OUTSTANDING."""
    found = {
        # All of "celery prefork 2" and so on together.
        (member.program.rstrip("0123456789 "), member.callers)
        for pool in seen.pools
        for member in pool.members
        if member.callers is not None and _opens(member) != member.stats.max_outstanding
    }
    if not found:
        return None
    each = ", ".join(f"{program}: {callers}" for program, callers in sorted(found))
    return f"Counts what a process serves at once where that is less than MAX_OUTSTANDING ({each})."


def _most(limits: list[int | None]) -> int | None:
    return None if None in limits else max(filter(None, limits))


def needs_workers(shares: list[Share]) -> bool:
    """Whether the number of processes matters, which HOST_LIMIT makes superfluous."""
    return any(share.host_limit is None for share in shares)


def demand(shares: list[Share], hosts: int, workers: int | None) -> Demand:
    """On the server of these. Raises CommandError where it can't be asked."""
    return Demand(_ask(shares[0].alias), shares, hosts, workers)


def _ask(alias: str) -> Limit:
    try:
        with owner.max_wait(MAX_WAIT):
            return capacity.ask(alias)
    except Error as error:
        raise CommandError(
            f"The server of {alias!r} can't be asked for its connection limit: {redact(error)}", returncode=1
        ) from error


def unknown(servers: dict[Server, list[Share]]) -> str | None:
    """What the plan can't know."""
    is_guessed = any(not share.is_reported for shares in servers.values() for share in shares)
    module = capacity.sized_elsewhere() if is_guessed else None
    if module is None:
        return None
    return (
        f'{module} calls set_pool_size(): its limits are known only of processes that run. What is "from '
        'settings" may be another number there.'
    )


def lines(server: Server, demand: Demand) -> list[str]:
    """How the sum comes about."""
    text = [f"{server}", f"  limit         {demand.limit}"]
    workers = demand.workers
    if demand.of_hosts:
        text.append(f"  each host     {', '.join(_of_host(share, workers) for share in demand.of_hosts)}")
    if demand.of_processes:
        of_processes = ", ".join(_of_process(share, workers) for share in demand.of_processes)
        text.append(f"  each process  {of_processes}")
    if demand.total is None:
        return [*text, "  total         unlimited: does not fit, set MAX_OUTSTANDING or HOST_LIMIT"]
    text.append(f"  total         {demand.hosts} x {_product(demand)}")
    left = max(0, demand.limit.connections) - demand.total
    if demand.fits:
        return [*text, f"  fits          leaves {left} for others"]
    fitting = ""
    if demand.fitting is not None:
        fitting = f"; {demand.fitting} per {'process' if demand.of_processes else 'host'} would fit"
    return [*text, f"  does not fit  {-left} too many{fitting}"]


def _of_host(share: Share, workers: int | None) -> str:
    """The words of Share, and why this is the lower limit."""
    of_processes = share.of_processes(workers)
    lower = "" if of_processes in (None, share.host_limit) else f", less than {workers} x {share.maximum}"
    return f"{share.named(share.host_limit)} (HOST_LIMIT{lower})"


def _of_process(share: Share, workers: int | None) -> str:
    if share.host_limit is None:
        return share.named(share.maximum)
    less = f"{workers} x {share.maximum} is less than HOST_LIMIT {share.host_limit}"
    return f"{share.named(share.maximum)} ({less})"


def _product(demand: Demand) -> str:
    if not demand.of_processes:
        return f"{demand.per_host} = {demand.total} (hosts x HOST_LIMIT)"
    processes = f"{demand.workers} x {demand.per_process}"
    if not demand.of_hosts:
        return f"{processes} = {demand.total} (hosts x processes x connections)"
    return (
        f"({demand.per_host} + {processes}) = {demand.total} (hosts x (HOST_LIMIT + processes x connections))"
    )
