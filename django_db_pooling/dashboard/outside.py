"""A connection outside of the pool and its limit, for one question: who wants to see the page.

Only when the pool had none in time. One at a time in a process, used once and closed right after. Not in a
pause, in which nobody is to be connected.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from django.db import OperationalError, connections

from django_db_pooling import conf, drivers
from django_db_pooling.backend import credentials
from django_db_pooling.backend.wrapper import PooledWrapper
from django_db_pooling.database_pool import copied
from django_db_pooling.log import extra, logger, redact
from django_db_pooling.registry import registry
from django_db_pooling.signals import connection_checked_out

T = TypeVar("T")

# Seconds to connect in; with PyMySQL also for each statement.
MAX_CONNECT = 3.0
BUSY = "All connections are in use, and another visitor’s login is being checked: one at a time."
PAUSED = "The pool is paused: no process connects to the database."
NO_CONNECTION = "All connections are in use, and the database gave none to check your login with."

# Who has the turn, by process id: a forked child doesn't have its parent's. Taken in one step.
_turns: dict[int, object] = {}


class Unavailable(OperationalError):
    """Nobody could be asked; the text, for visitors, says why."""


def ask(alias: str, question: Callable[[], T]) -> T:
    """What ``question`` returns, with a connection of its own to this database (I/O).

    Raises Unavailable, at once where somebody else asks. What the question raises otherwise is passed on.
    """
    me, process = object(), os.getpid()
    try:
        if _turns.setdefault(process, me) is not me:
            raise Unavailable(BUSY)
        return _ask(alias, question)
    finally:
        if _turns.get(process) is me:
            del _turns[process]


def _ask(alias: str, question: Callable[[], T]) -> T:
    if registry.pause_left(alias) is not None:
        raise Unavailable(PAUSED)
    pooled: Any = connections[alias]
    if not isinstance(pooled, PooledWrapper) or pooled.holds or pooled.in_atomic_block:
        raise Unavailable(NO_CONNECTION)
    plain = _plain(pooled)
    try:
        connections[alias] = plain
        _connect(plain)
        return question()
    finally:
        connections[alias] = pooled
        plain.close()


def _plain(pooled: Any) -> Any:
    """As without the pool. Should anything keep it from being closed here, the request's end closes it."""
    plain = pooled.backend_class(copied(pooled.settings_dict) | {"CONN_MAX_AGE": 0}, pooled.alias)
    plain.get_connection_params = partial(_parameters, plain)
    return plain


def _parameters(plain: Any) -> dict[str, Any]:
    callback = conf.credentials(plain.settings_dict)
    if callback is not None:
        credentials.put_into(plain.settings_dict, plain.alias, callback)
    parameters: dict[str, Any] = type(plain).get_connection_params(plain)
    driver = drivers.find(plain.Database)
    assert driver is not None
    driver.adapt(parameters, MAX_CONNECT)
    return parameters


def _connect(plain: Any) -> None:
    # Before it: no handler is waited for with a connection.
    logger.info(
        "%s: the pool is exhausted; a connection outside of it checks a login to the page of pools",
        plain.alias,
        extra=extra("login", alias=plain.alias),
    )
    try:
        plain.connect()
    except Exception as error:
        logger.info(
            "%s: no connection outside of the pool to check a login with: %s",
            plain.alias,
            redact(error),
            extra=extra("login", alias=plain.alias, error=redact(error)),
        )
        raise Unavailable(NO_CONNECTION) from error
    # Of a tenant or a role, for example.
    connection_checked_out.send(sender=type(plain), connection=plain)
