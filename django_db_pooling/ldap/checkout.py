"""From a slot of the pool to a connection that is bound as a user, and back."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from threading import current_thread
from typing import Any

import ldap

from django_db_pooling.drivers.sockets import keep_alive
from django_db_pooling.ldap.connecting import connect
from django_db_pooling.ldap.connector import CONNECTION_BROKEN
from django_db_pooling.ldap.driver import DRIVER
from django_db_pooling.ldap.identities import Credentials, Identities
from django_db_pooling.ldap.pool import DirectoryPool
from django_db_pooling.ldap.state import StateConnector
from django_db_pooling.log import safe_label
from django_db_pooling.pool.limits import Limits
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.stats import Closed
from django_db_pooling.pool.waiter import CheckoutTimeout
from django_db_pooling.process import fork, upkeep
from django_db_pooling.process.deadline import MIN_SECONDS, Deadline

# A connection that has been idle for longer (seconds) is checked before it is used.
LONG_IDLE = 60.0
# An idle connection that gives no answer for so long (seconds) is broken.
PING_TIMEOUT = 5.0
# Idle seconds after which TCP probes whether the other side is still there.
KEEPALIVE = 60.0


class MaxConnectionReachedError(Exception):
    """All connections were in use for too long. ``waited``: for how many seconds."""

    def __init__(self, message: str, waited: float = 0.0) -> None:
        super().__init__(message)
        self.waited = waited


class BackendError(Exception):
    """Connecting failed, for another reason than that no server is there."""

    def __init__(self, msg: str, backend: Any = None) -> None:
        super().__init__(msg)
        # An attribute of ldappool's, for code that moves from it; None here.
        self.backend = backend


class Checkouts:
    """A pool of connections, each bound as a user, and how they are opened, checked, replaced and returned.

    ConnectionManager documents the public attributes. They may be changed at any time.
    """

    def __init__(
        self,
        uri: str,
        bind: str | None,
        passwd: str | None,
        limits: Limits,
        *,
        retry_max: int,
        retry_delay: float,
        use_tls: bool,
        timeout: float,
        connector_cls: type[StateConnector],
        use_pool: bool,
        options: Mapping[int, Any] | None,
    ) -> None:
        self.uri = uri
        self.bind = bind
        self.retry_max = retry_max
        self.retry_delay = retry_delay
        self.use_tls = use_tls
        self.timeout = timeout
        self.connector_cls = connector_cls
        self.use_pool = use_pool
        self.wait_timeout = limits.timeout
        self.options = dict(options or {})
        # Not an attribute, which would be found in dumps.
        self._passwd: Callable[[], str | None] = lambda: passwd
        self._identities = Identities()
        # Kept for good: the pool opens connections of this one by itself.
        self._own_identity = self._identities.of(bind, passwd)
        # Each process has its own: use _pool, which notices a fork.
        self._pool_of_process = DirectoryPool(uri, limits)
        # Before the first use no connection is opened for min_size.
        self._is_used = False

    @property
    def _pool(self) -> DirectoryPool:
        if not fork.noticed[0]:
            fork.notice()
        return self._pool_of_process

    def forked(self) -> None:
        """Called in a forked child, by process.upkeep."""
        self._identities.renew_lock()
        pool = self._pool_of_process
        # For the users of its connections at this moment.
        pool.closing = True
        fork.cut_off(DRIVER.fileno(connection) for connection in pool.connections())
        fork.never_free(pool)
        self._is_used = False
        self._pool_of_process = DirectoryPool(self.uri, pool.limits)

    def _check_out(self, bind: str | None, passwd: str | None) -> Slot:
        deadline = Deadline(self.wait_timeout)
        who = self._identities.credentials(bind, passwd)
        while True:
            slot = self._try(who, deadline)
            if slot is not None:
                return slot
            if deadline.is_over:
                raise ldap.TIMEOUT({"desc": "Timed out", "info": "no answer on an idle connection"})

    def _try(self, who: Credentials, deadline: Deadline) -> Slot | None:
        """One checkout. None: the connection was broken and is gone."""
        try:
            # From here on slot.pool: _pool is another one in a forked child.
            slot = self._pool.checkout(deadline.until, _holder(), deadline.began, who.identity)
        except CheckoutTimeout as error:
            raise MaxConnectionReachedError(str(error), error.waited) from None
        try:
            if slot.connection is None:
                self._open(slot, who, deadline)
            elif not self._is_good(slot, who, deadline):
                slot.pool.found_broken()
                slot.pool.discard(slot, Closed.BROKEN)
                return None
            slot.connection.answer_timeout = (
                None if self.wait_timeout is None else max(self.wait_timeout, MIN_SECONDS)
            )
            slot.connection._reopen = self._reopener(slot, who)
        except BaseException:
            slot.pool.discard(slot)
            raise
        return slot

    def _is_good(self, slot: Slot, who: Credentials, deadline: Deadline) -> bool:
        """Whether an idle connection can be used (I/O). Raises the server's error about a password."""
        connection: StateConnector = slot.connection
        left = deadline.left()
        # Half of the time is left for a fresh one, should this one not answer.
        seconds = PING_TIMEOUT if left is None else min(left / 2, PING_TIMEOUT)
        if who.identity is not self._own_identity and who.bind is not None:
            try:
                connection.rebind(who.bind, who.password, seconds)
            except CONNECTION_BROKEN + (ldap.TIMEOUT,):
                return False
        elif slot.pool.is_suspect(slot) or slot.taken_at - slot.returned_at > LONG_IDLE:
            if not connection.is_usable(seconds):
                return False
        else:
            return True
        slot.pool.validated(slot)
        return True

    def _open(self, slot: Slot, who: Credentials, deadline: Deadline) -> None:
        """Connect, and try again while no server is there. Raises as ``connection()`` says."""
        tries = 0
        while True:
            tries += 1
            try:
                DRIVER.open(slot, self._connecting(who, deadline), deadline.left())
                break
            except ldap.LDAPError as error:
                is_last = tries >= self.retry_max or not DRIVER.server_away(error)
                until = deadline.until
                if is_last or (until is not None and time.monotonic() + self.retry_delay >= until):
                    self._opening_failed(slot, error)
                    if isinstance(
                        error,
                        ldap.INVALID_CREDENTIALS | ldap.NO_SUCH_OBJECT | ldap.SERVER_DOWN | ldap.TIMEOUT,
                    ):
                        raise
                    raise BackendError(str(error)) from error
            time.sleep(self.retry_delay)
        keep_alive(slot.connection.descriptor, KEEPALIVE, ())
        slot.pool.opened(slot)
        self._need_upkeep()

    def _opening_failed(self, slot: Slot, error: ldap.LDAPError) -> None:
        is_own = slot.affinity is self._own_identity
        if not is_own and isinstance(error, ldap.INVALID_CREDENTIALS | ldap.NO_SUCH_OBJECT):
            # A user's password is wrong: that says nothing about the server.
            slot.pool.discard(slot)
            return
        # A copy without the traceback, whose frames have passwords.
        slot.pool.open_failed(slot, type(error)(*error.args))
        # The failure is to be logged, even if there is no connection yet.
        self._need_upkeep()

    def _need_upkeep(self) -> None:
        self._is_used = True
        upkeep.ensure_running(self)

    def _connecting(self, who: Credentials, deadline: Deadline) -> Callable[[], StateConnector]:
        return partial(
            connect,
            self.connector_cls,
            self.uri,
            who.bind,
            who.password,
            start_tls=self.use_tls,
            options=self.options,
            timeout=self.timeout,
            seconds=deadline.left(),
        )

    def _reopener(self, slot: Slot, who: Credentials) -> Callable[[Deadline], bool]:
        """A function that replaces a broken connection by a fresh one, if there is time left.

        Not if its user has bound it as another user, or waits for other answers on it.
        """
        connection: StateConnector = slot.connection
        pool = self._pool
        # Weak: a slot that is dropped is reclaimed at once, which a cycle through its connection would stop.
        lease = weakref.ref(slot)

        # Not a partial, which shows its arguments.
        def reopen(deadline: Deadline) -> bool:
            slot = lease()
            if slot is None:
                return False
            if connection.is_dirty or connection.pending or slot.connection is not connection:
                return False
            if slot.attempt is not None or deadline.is_over:
                return False
            try:
                DRIVER.open(slot, self._connecting(who, deadline), deadline.left())
            except ldap.LDAPError:
                return False
            connection.replace_with(slot.connection)
            slot.connection = connection
            pool.reopened(slot)
            return True

        return reopen

    def _check_in(self, slot: Slot) -> None:
        if self.use_pool and not slot.broken and slot.pool.wants(slot) and _is_clean(slot.connection):
            slot.pool.checkin(slot)
        else:
            slot.pool.close(slot)


def _is_clean(connection: StateConnector) -> bool:
    """Restore its options. Whether it is as it was when it was opened."""
    if DRIVER.broken(connection):
        return False
    connection.restore_options()
    return not DRIVER.unread(connection)


def _holder() -> str:
    return safe_label(f"thread {current_thread().name}")
