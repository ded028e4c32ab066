"""Opening: the connection that a bare slot lacks."""

from __future__ import annotations

import copy
import os
import time
import traceback
from functools import partial
from typing import Any

from django.conf import settings
from django.db import Error as DjangoError
from django.db import OperationalError, connections

from django_db_pooling.backend import checkin, credentials
from django_db_pooling.backend.base import LeaseHolder
from django_db_pooling.backend.lease import Lease
from django_db_pooling.database_pool import Identity, copied
from django_db_pooling.drivers.sockets import keep_alive
from django_db_pooling.pool.slot import Slot
from django_db_pooling.process import program, upkeep
from django_db_pooling.process.deadline import MIN_SECONDS, Deadline
from django_db_pooling.signals import foreign_receivers

# For opening one of MIN_SIZE: the housekeeper has other things to do meanwhile (seconds).
MAX_FILL = 5.0
# PostgreSQL cuts names after so many.
MAX_LABEL_BYTES = 63


def open_patiently(wrapper: LeaseHolder, lease: Lease) -> bool:
    """Open, for CONNECT_RETRY seconds while the server is away. False: queue up again instead."""
    while True:
        began = time.monotonic()
        try:
            open_once(wrapper, lease)
            return True
        except Exception as error:
            pause = _try_again_in(wrapper, lease, error, began)
            if pause is None:
                _give_up(wrapper, lease, error)
                raise
            # Drivers leave reference cycles in the frames of a connect() that failed.
            traceback.clear_frames(error.__traceback__)
        _undo(wrapper, lease)
        if not pause:
            wrapper.discard()
            return False
        time.sleep(pause)


def _try_again_in(wrapper: LeaseHolder, lease: Lease, error: Exception, began: float) -> float | None:
    """Seconds; 0: rather queue up again; None: the caller gets this error."""
    pool, slot, driver = lease.pool, lease.slot, lease.driver
    cause, copied_error = error.__cause__ or error, copy_of_error(error)
    until = None if wrapper._deadline is None else wrapper._deadline.until
    pause = None
    if driver.server_full(cause):
        pool.server_full(copied_error)
    if driver.server_away(cause):
        pause = pool.retry_in(copied_error, began, until, slot.affinity)
    if pause is None and _may_be_over_soon(wrapper, error):
        return 0.0 if pool.should_queue_again(slot, copied_error, until) else None
    return pause


def open_once(wrapper: LeaseHolder, lease: Lease) -> None:
    """Try once, and once more where the server has refused what CREDENTIALS gave: that may have changed."""
    try:
        _attempt(wrapper, lease)
        return
    except Exception as error:
        is_asked = lease.identity.credentials is not None
        if not (is_asked and lease.driver.login_refused(error.__cause__ or error)):
            raise
        traceback.clear_frames(error.__traceback__)
    _undo(wrapper, lease)
    _attempt(wrapper, lease)


def _attempt(wrapper: LeaseHolder, lease: Lease) -> None:
    slot, driver, identity = lease.slot, lease.driver, lease.identity
    own = wrapper.set_by_user(driver.learned)
    try:
        wrapper.__dict__.update(identity.learned)
        # Ends an attempt to which the server doesn't answer.
        upkeep.ensure_running()
        _open(wrapper, lease, identity)
    except Exception as error:
        if slot.open_until:
            raise
        text = f"{wrapper.alias}: the server was silent while the connection was set up"
        raise OperationalError(text) from error.__cause__ or error
    finally:
        # Django's connect() sets these anew.
        wrapper.__dict__.update(own)
    lease.pool.opened(slot)


def _open(wrapper: LeaseHolder, lease: Lease, identity: Identity) -> None:
    slot, driver = lease.slot, lease.driver
    _connect(wrapper, identity)
    if wrapper._lease is not lease or driver.broken(slot.connection):
        raise OperationalError(f"{wrapper.alias}: closed or lost by a receiver of connection_created")
    fd, idle = driver.fileno(slot.connection), lease.pool.limits.keepalive
    if fd is not None and idle is not None:
        keep_alive(fd, idle, lease.params)
    driver.connected(slot.connection, lease.params, identity.asks_server)
    lease.params = {}
    slot.settings = driver.settings(slot.connection)
    slot.resettable = identity.resettable and not foreign_receivers(wrapper.backend_class)
    wrapper._learned = identity.learn(wrapper)
    slot.server_timeout = identity.server_timeout
    # The settings may have changed while this connected.
    slot.broken = not identity.fits(wrapper)


def _connect(wrapper: LeaseHolder, identity: Identity) -> None:
    """What the backend writes into its settings while it connects, a token for example, is found by
    comparing. Others may change the alias's own at the same time.
    """
    settings_dict = wrapper.settings_dict
    own = copied(settings_dict)
    if identity.credentials is not None:
        credentials.put_into(own, wrapper.alias, identity.credentials)
    before = copied(own)
    try:
        wrapper.settings_dict = own
        wrapper.plain.connect()
    finally:
        wrapper.settings_dict = settings_dict
        if own != before:
            changes = {key: own[key] for key in own if key not in before or own[key] != before[key]}
            identity.pool.found_own_keys(set(changes))
            settings_dict.update(changes)


def get_new_connection(wrapper: LeaseHolder, conn_params: dict[str, Any]) -> Any:
    """For Django's connect()."""
    lease = wrapper._lease
    if lease is None or lease.slot.connection is not None:
        return wrapper.plain.get_new_connection(conn_params)
    lease.params = conn_params
    adapted = conn_params.copy()
    seconds = _seconds_to_connect(wrapper, lease)
    lease.driver.adapt(adapted, seconds)
    if lease.identity.has_label:
        lease.driver.label(adapted, _label())
    if seconds is not None:
        lease.slot.open_until = time.monotonic() + seconds
    lease.driver.open(lease.slot, partial(wrapper.plain.get_new_connection, adapted), seconds)
    return lease.slot.connection


def _label() -> str:
    """Of this process, for whoever looks at the server's sessions."""
    project, _, rest = str(getattr(settings, "SETTINGS_MODULE", None) or "").partition(".")
    # As plain as a server shows it. A label that is too long keeps its end.
    name = f"{program.name()}: {project}" if rest else program.name()
    name = name.encode("ascii", "backslashreplace").decode()
    end = f" ({os.getpid()})"
    return name[: MAX_LABEL_BYTES - len(end)] + end


def _seconds_to_connect(wrapper: LeaseHolder, lease: Lease) -> float | None:
    seconds = wrapper.seconds_left(lease)
    if not lease.pool.growth.of(lease.slot.affinity).outage:
        return seconds
    # The others are turned away until this attempt ends.
    most: float = max(lease.pool.limits.connect_retry, MIN_SECONDS)
    return most if seconds is None else min(seconds, most)


def _give_up(wrapper: LeaseHolder, lease: Lease, error: BaseException) -> None:
    """Free a slot that got no connection. Only the driver's errors say something of the server."""
    wrapper.take_back()
    wrapper._lease = None
    if isinstance(error, Exception) and _may_be_over_soon(wrapper, error):
        lease.pool.open_failed(lease.slot, copy_of_error(error))
    else:
        lease.pool.discard(lease.slot)


def _is_the_drivers(wrapper: LeaseHolder, error: Exception) -> bool:
    cause = error.__cause__ if isinstance(error, DjangoError) else error
    return isinstance(cause, (wrapper.Database.Error, OSError))


def _may_be_over_soon(wrapper: LeaseHolder, error: Exception) -> bool:
    return isinstance(error, credentials.NoCredentials) or _is_the_drivers(wrapper, error)


def _undo(wrapper: LeaseHolder, lease: Lease) -> None:
    """What an attempt that failed may have left."""
    slot = lease.slot
    wrapper.take_back()
    wrapper.connection, connection, slot.connection = None, slot.connection, None
    if connection is not None:
        lease.driver.drop(connection)


def fill(wrapper: LeaseHolder, identity: Identity, slot: Slot, deadline: Deadline | None = None) -> None:
    """Open a connection for a bare slot and check it in: the housekeeper's, for MIN_SIZE.

    ``deadline``: of somebody who waits for it, and tries again while the server is away; without an error
    there may be no connection then, as when a caller would queue again.
    """
    wrapper._identity = identity
    lease = wrapper._lease = Lease(slot, identity, by_transaction=False)
    wrapper._deadline = deadline or Deadline(min(lease.pool.limits.timeout or MAX_FILL, MAX_FILL))
    # Receivers of connection_created that ask for connections[alias] mean this one.
    connections[wrapper.alias] = wrapper
    try:
        if deadline is None:
            open_once(wrapper, lease)
        else:
            open_patiently(wrapper, lease)
    except BaseException as error:
        if wrapper._lease is not None:
            _give_up(wrapper, lease, error)
        raise
    finally:
        del connections[wrapper.alias]
    checkin.give_back(wrapper)


def copy_of_error(error: Exception, note: str | None = None) -> Exception:
    """To raise or store it without the traceback, and so the frames, of its first raise."""
    try:
        made = copy.copy(error)
    except Exception:
        made = OperationalError(str(error))
    made.__traceback__ = None
    if note is not None:
        made.add_note(note)
    return made
