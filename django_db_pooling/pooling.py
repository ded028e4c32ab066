"""The public functions.

In ``wsgi.py``, before the application is made::

    from django_db_pooling import pooling

    pooling.set_pool_size(10, max_outstanding=20)
    pooling.patch()
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS
from django.db import connections as databases
from django.db.transaction import TransactionManagementError
from django.utils.connection import ConnectionDoesNotExist

from django_db_pooling import conf, owner
from django_db_pooling.backend import transactions, warming
from django_db_pooling.backend.wrapper import PooledWrapper
from django_db_pooling.handler import make_storage_local, patch, unpatch
from django_db_pooling.owner import scope
from django_db_pooling.pool.stats import PoolStats
from django_db_pooling.registry import registry

__all__ = [
    "PoolStats",
    "apply_patch",
    "close_all",
    "patch",
    "pause",
    "pin",
    "recycle",
    "release",
    "resume",
    "scope",
    "set_pool_size",
    "stats",
    "unpatch",
    "warm_up",
]

# Its name in 0.0.4.
apply_patch = patch


def set_pool_size(
    size: int,
    max_outstanding: int | None | conf.Unchanged = conf.UNCHANGED,
    timeout: float | None | conf.Unchanged = conf.UNCHANGED,
    alias: str | None = None,
) -> None:
    """Set how many idle connections are kept, and how many may be open, from now on.

    ``size``: idle connections kept, 1 or more. ``max_outstanding``: most connections open at any
    moment, ``size`` or more, or None for no limit; left out, the larger of the present one and
    ``size``. ``timeout``: seconds that a caller waits for a connection, 0 to never wait, None to
    wait without a limit. ``alias``: one database; left out, the default for all. Takes precedence
    over the settings.

    Raises ValueError that names the argument; then nothing has changed.
    """
    if alias is not None and settings.configured and alias not in databases.settings:
        raise ValueError(f"alias must be one of {', '.join(map(repr, databases.settings))}, not {alias!r}")
    conf.override(size, max_outstanding, timeout, alias)
    registry.apply_limits()


def release(alias: str | None = None) -> None:
    """Return this thread's or greenlet's connections now, before a slow call to another service.

    Raises TransactionManagementError in a transaction, and ConnectionDoesNotExist for an unknown alias.
    Does nothing where the only transaction is that of a TestCase.
    """
    _check(alias)
    held = [
        wrapper
        for wrapper in owner.current().holding()
        if alias in (None, wrapper.alias)
        and not wrapper.is_awaited
        and not transactions.is_of_testcase(wrapper)
    ]
    for wrapper in held:
        if wrapper.in_transaction:
            raise TransactionManagementError(
                f"The connection to {wrapper.alias!r} can't be released {transactions.why_open(wrapper)}"
            )
    owner.give_all_back(held)


def pin(alias: str | None = None) -> None:
    """Keep this thread's or greenlet's connection to the end of the request or scope, and then reset it.

    For session changes that the pool can't see, such as those of a function of the database. Checks out a
    connection now, if none is held. ``alias``: left out, the default database. Raises
    ConnectionDoesNotExist for an unknown alias.
    """
    _check(alias)
    wrapper: Any = databases[alias or DEFAULT_DB_ALIAS]
    if isinstance(wrapper, PooledWrapper):
        wrapper.pin_session()


def recycle(alias: str | None = None) -> None:
    """Replace every connection when it is returned: for rotated credentials, or after a failover.

    Idle ones are closed now. Raises ConnectionDoesNotExist for an unknown alias.
    """
    _check(alias)
    for pool in registry.pools(alias):
        pool.recycle()


def pause(alias: str | None = None, seconds: float = 60) -> None:
    """Hand out no connection for so many seconds, or until ``resume()``: for a switch to another server.

    Callers wait in line, each for as long as it may; one that holds a connection goes on with it. Idle
    connections are closed now, the others when they are returned, and none is opened. ``alias``: left out,
    all of them. A pause that is on already lasts as long as the later end of the two says. It is this
    process's own: ``manage.py db_pools --pause`` is for all of a host.

    Raises ConnectionDoesNotExist for an unknown alias, ValueError where ``seconds`` aren't above 0.
    """
    _check(alias)
    if not conf.is_duration(seconds):
        raise ValueError(f"seconds must be a number above 0, not {seconds!r}")
    for one in _aliases(alias):
        registry.pause(one, seconds)


def resume(alias: str | None = None) -> None:
    """End a pause now: those who wait are served. Nothing where there is none.

    Raises ConnectionDoesNotExist for an unknown alias.
    """
    _check(alias)
    for one in _aliases(alias):
        registry.resume(one)


def close_all(alias: str | None = None, timeout: float = 0) -> bool:
    """Close idle connections now, those in use when they are returned. The next checkout opens a new one.

    Waits up to ``timeout`` seconds for those in use, but never for the caller's own. Returns
    whether none of the others is left. Raises ConnectionDoesNotExist for an unknown alias.
    """
    _check(alias)
    own = [held.slot for held in owner.current().holding() if held.slot is not None]
    return registry.close_all(alias, timeout, own)


def warm_up(alias: str | None = None, connections: int | None = None, timeout: float | None = 30) -> None:
    """Open connections before anybody asks for one, side by side: in a server's worker, before it serves.

    ``alias``: left out, every pooled one. ``connections``: how many there shall be, with those that are open
    already; left out, ``MIN_SIZE``, or 1 if that is 0. ``timeout``: seconds, None to wait without a limit.
    Nothing is done for an alias that isn't pooled. Under gevent they work in the caller's hub.

    Raises what connecting raises, PoolTimeout when the time is over, ValueError that names a wrong argument,
    ConnectionDoesNotExist for an unknown alias, SynchronousOnlyOperation in a running event loop. Those that
    were opened until then stay.
    """
    _check(alias)
    # It may be earlier than the first request, and gevent have patched since patch().
    make_storage_local()
    warming.warm_up(_aliases(alias), connections, timeout)


@overload
def stats(alias: str) -> PoolStats: ...
@overload
def stats(alias: None = None) -> Mapping[str, PoolStats]: ...
def stats(alias: str | None = None) -> PoolStats | Mapping[str, PoolStats]:
    """The figures of an alias, or a mapping of all aliases but those with ``POOL = False``.

    Only reads, and waits for nothing. Raises ConnectionDoesNotExist for an unknown alias.
    """
    _check(alias)
    if alias is not None:
        return registry.stats(alias, databases.settings[alias])
    return registry.all_stats()


def _aliases(alias: str | None) -> list[str]:
    return list(databases.settings) if alias is None else [alias]


def _check(alias: str | None) -> None:
    if alias is not None and alias not in databases.settings:
        raise ConnectionDoesNotExist(f"The connection {alias!r} doesn't exist.")
