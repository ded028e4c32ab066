"""Broken connections: how an error is recognised as one, and what happens to a transaction then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django.db.utils import DatabaseErrorWrapper

from django_db_pooling.backend.base import LeaseHolder
from django_db_pooling.backend.lease import LOST, Lease
from django_db_pooling.drivers.errors import CONNECTION, READ_ONLY_TRANSACTION, SERVER
from django_db_pooling.pool.holders import request_label
from django_db_pooling.pool.stats import Closed
from django_db_pooling.process import fork
from django_db_pooling.process.observers import observers

F = TypeVar("F", bound=Callable[..., Any])


class ConnectionErrors(DatabaseErrorWrapper):
    """Django's translation of database errors, or the backend's, which also reports them to the wrapper.

    An error may say that the connection is broken. Another exception (a timeout, a kill) may have left
    an answer unread, which the next statement would take for its own.
    """

    wrapper: LeaseHolder

    def __call__(self, func: F) -> F:
        """Around what reads from a cursor that is open already."""
        if not fork.noticed[0]:
            fork.notice()
        return super().__call__(func)

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        if exc_type is None:
            return
        translate = getattr(self.wrapper, "translate", super().__exit__)
        try:
            translate(exc_type, exc_value, traceback)
        finally:
            statement_failed(self.wrapper, exc_value)


def is_usable(wrapper: LeaseHolder, ask: Callable[[], bool]) -> bool:
    """Whether the server answers (I/O). ``ask``: Django's ``is_usable``."""
    lease = wrapper._lease
    if lease is None:
        return wrapper.connection is not None and wrapper._vacant is not LOST and ask()
    try:
        usable: bool = lease.driver.usable(wrapper.connection, ask, wrapper.seconds_to_ask(lease))
    except BaseException as error:
        lose(wrapper, error)
        raise
    if usable:
        lease.pool.validated(lease.slot)
    else:
        # After a health check Django calls close(), which doesn't get the reason.
        lease.slot.broken = True
    return usable


def statement_failed(wrapper: LeaseHolder, error: BaseException) -> None:
    """Called with every exception that leaves the driver."""
    lease = wrapper._lease
    if lease is None or not lease.slot.opened_at:
        # What fails while it is opened is checkout's.
        return
    try:
        is_lost = _has_lost(wrapper, lease, error)
    except Exception as failure:
        observers.failed("looking at an error", failure)
        # What is no error of the database's may have left an answer unread.
        is_lost = not isinstance(error, wrapper.Database.Error)
        lease.slot.broken = True
    if is_lost:
        lease.pool.journal.trouble("lost", error, request=request_label(lease.slot.holder))
        lose(wrapper, error)


def _has_lost(wrapper: LeaseHolder, lease: Lease, error: BaseException) -> bool:
    """Whether the connection can't be used any more, not even by this request."""
    driver, slot = lease.driver, lease.slot
    broken = bool(driver.broken(slot.connection))
    if not isinstance(error, wrapper.Database.Error):
        return broken or bool(driver.interrupted(slot.connection, error))
    if broken:
        lease.pool.suspect_all()
    else:
        _retire_what_is_unfit(lease, error)
    return broken


def _retire_what_is_unfit(lease: Lease, error: BaseException) -> None:
    """This request may go on with what it has; the next ones get another connection, or none that was opened
    before now.
    """
    slot, identity = lease.slot, lease.identity
    unfit = lease.driver.unfit(slot.connection, error)
    if unfit is None:
        return
    if unfit is CONNECTION:
        slot.broken = True
        return
    if unfit is READ_ONLY_TRANSACTION and (slot.dirty or lease.has_begun_by_text):
        # It has chosen that.
        return
    # A replica never takes writes.
    if unfit is SERVER or identity.takes_writes is not False:
        identity.pool.wrong_server(slot, error)


def lose(wrapper: LeaseHolder, error: BaseException | None = None) -> None:
    """Cut this connection because of an error, and what the server executes for it: a transaction fails."""
    if wrapper._lease is None:
        return
    lease = wrapper.end_lease()
    slot, driver = lease.slot, lease.driver
    was_in_transaction = lease.manual or lease.was_in_transaction
    if driver.remembers_transaction and slot.connection is not None:
        was_in_transaction = True
        try:
            was_in_transaction = lease.manual or driver.in_transaction(slot.connection) is not False
        except Exception as failure:
            observers.failed("looking for a transaction", failure)
    lease.pool.give_up(slot, Closed.BROKEN, error)
    if not driver.has_transactions:
        wrapper.unset_connection()
        return
    if wrapper.in_atomic_block:
        wrapper.lose_block()
        return
    ends_atomic = wrapper.settings_dict["AUTOCOMMIT"] and not (wrapper.autocommit or lease.manual)
    if was_in_transaction and not ends_atomic:
        wrapper._vacant = LOST
    else:
        # No transaction would be split if the next statement ran on another connection.
        wrapper.connection = None
