"""Checkouts that take time: those who watch them, and what the log tells of slow ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from django_db_pooling.backend.base import LeaseHolder
from django_db_pooling.database_pool import DatabasePool
from django_db_pooling.pool.holders import request_label
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.waiter import Waiter
from django_db_pooling.process.deadline import Deadline
from django_db_pooling.process.observers import observers


class Watch(Protocol):
    """Of one checkout, called in its thread or greenlet. Whatever interrupts ``begin``, ``end`` comes."""

    def begin(self) -> None:
        """It has to wait, in the queue or for an opening."""

    def end(self, failure: type[BaseException] | None) -> None:
        """It is over. ``failure``: what it has raised."""


# What rooms above have added: each makes a watch of a checkout, which the wrapper's ``_deadline`` has begun.
watchers: list[Callable[[LeaseHolder, Deadline], Watch]] = []


def before_waiting(
    wrapper: LeaseHolder, also: Callable[[Waiter], str | None] | None, waiter: Waiter
) -> str | None:
    """For ``Pool.checkout``."""
    begin(wrapper)
    return None if also is None else also(waiter)


def begin(wrapper: LeaseHolder) -> None:
    """A checkout waits, for the first time or again."""
    deadline = wrapper._deadline
    if deadline is None or deadline.watches:
        return
    for watcher in watchers:
        _begin(watcher, wrapper, deadline)


def _begin(
    watcher: Callable[[LeaseHolder, Deadline], Watch], wrapper: LeaseHolder, deadline: Deadline
) -> None:
    try:
        watch = watcher(wrapper, deadline)
        # First of all: from here on its end is told.
        deadline.watches = (*deadline.watches, watch)
        watch.begin()
    except Exception as error:
        observers.failed("watching a checkout", error)


def end(deadline: Deadline, failure: type[BaseException] | None) -> None:
    """The checkout is over."""
    for watch in reversed(deadline.watches):
        _end(watch, failure)


def _end(watch: Watch, failure: type[BaseException] | None) -> None:
    try:
        watch.end(failure)
    except Exception as error:
        observers.failed("watching a checkout", error)


def tell(pool: DatabasePool, deadline: Deadline, holder: object, own: Slot | None) -> None:
    """For the log: it was slow. ``own``: what it has got."""
    try:
        seconds = time.monotonic() - deadline.began
        look = pool.queue.looks.since(deadline.began, own)
        pool.journal.note(
            "slow",
            request=request_label(holder),
            seconds=seconds,
            queue_seconds=deadline.queued,
            connect_seconds=deadline.connecting,
            check_seconds=max(0.0, seconds - deadline.queued - deadline.connecting),
            holders=look.holders,
            limits=look.limits,
            **look.figures,
        )
    except Exception as error:
        observers.failed("telling of a slow checkout", error)
