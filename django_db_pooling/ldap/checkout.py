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
from django_db_pooling.ldap.turns import let_reader_go_first
from django_db_pooling.log import safe_label
from django_db_pooling.pool.growth import MAX_PAUSE
from django_db_pooling.pool.limits import Limits
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.stats import Closed
from django_db_pooling.pool.waiter import CheckoutTimeout, ServerAway
from django_db_pooling.process import fork, upkeep
from django_db_pooling.process.deadline import MIN_SECONDS, Deadline

# A connection that has been idle for longer (seconds) is checked before it is used.
LONG_IDLE = 60.0
# An idle connection that gives no answer for so long (seconds) is broken.
PING_TIMEOUT = 5.0
# Idle seconds after which TCP probes whether the other side is still there.
KEEPALIVE = 60.0


# Between attempts to connect whose number is given (seconds): ldappool's default.
RETRY_DELAY = 0.1
# What there is in place of seconds for one that should queue up again, for another connection.
QUEUE_AGAIN = -1.0


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
        retry_max: int | None,
        retry_delay: float | None,
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
        let_reader_go_first()
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
        except ServerAway as away:
            raise _for_callers(_with_info(away.error, str(away))) from None
        try:
            if slot.connection is None:
                if not self._open(slot, who, deadline):
                    return None
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

    def _open(self, slot: Slot, who: Credentials, deadline: Deadline, *, once: bool = False) -> bool:
        """Connect, and try again while no server is there. Raises as ``connection()`` says.

        False: rather queue up again. ``once``: don't try again.
        """
        tries = 0
        while True:
            tries += 1
            began = time.monotonic()
            try:
                DRIVER.open(slot, self._connecting(slot, who, deadline), deadline.left())
                break
            except ldap.LDAPError as error:
                pause = None if once else self._pause(slot, error, tries, began, deadline)
                if pause is None:
                    self._opening_failed(slot, error)
                    raised = _for_callers(error)
                    if raised is error:
                        raise
                    raise raised from error
            if pause is QUEUE_AGAIN:
                slot.pool.discard(slot)
                return False
            time.sleep(pause)
        self._opened(slot)
        slot.pool.opened(slot)
        self._need_upkeep()
        return True

    def _opened(self, slot: Slot) -> None:
        keep_alive(slot.connection.descriptor, KEEPALIVE, ())

    def _pause(
        self, slot: Slot, error: ldap.LDAPError, tries: int, began: float, deadline: Deadline
    ) -> float | None:
        """Seconds until connecting is tried again, after ``tries``; None: it is not, or QUEUE_AGAIN."""
        if not DRIVER.server_away(error):
            return None
        until = deadline.until
        if self.retry_max is not None:
            delay = RETRY_DELAY if self.retry_delay is None else self.retry_delay
            is_last = tries >= self.retry_max or (until is not None and time.monotonic() + delay >= until)
            return None if is_last else delay
        pause = slot.pool.retry_in(type(error)(*error.args), began, until, slot.affinity)
        if pause is None:
            return None
        return QUEUE_AGAIN if pause <= 0 else self.retry_delay or pause

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

    def _connecting(self, slot: Slot, who: Credentials, deadline: Deadline) -> Callable[[], StateConnector]:
        left = deadline.left()
        if slot.pool.growth.of(slot.affinity).outage:
            # The others are turned away until this attempt ends.
            most = max(slot.pool.limits.connect_retry, MIN_SECONDS)
            left = most if left is None else min(left, most)
        return partial(
            connect,
            self.connector_cls,
            self.uri,
            who.bind,
            who.password,
            start_tls=self.use_tls,
            options=self.options,
            timeout=self.timeout,
            seconds=left,
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
            if not self._open_again(slot, who, deadline):
                return False
            self._opened(slot)
            connection.replace_with(slot.connection)
            slot.connection = connection
            pool.reopened(slot)
            return True

        return reopen

    def _open_again(self, slot: Slot, who: Credentials, deadline: Deadline) -> bool:
        """In the place of a broken connection. False where no server is there for too long."""
        tries = 0
        while True:
            tries += 1
            began = time.monotonic()
            try:
                DRIVER.open(slot, self._connecting(slot, who, deadline), deadline.left())
                return True
            except ldap.LDAPError as error:
                pause = self._pause(slot, error, tries, began, deadline)
            if pause is None:
                return False
            # It has its place already, and no use for another one.
            time.sleep(MAX_PAUSE if pause is QUEUE_AGAIN else pause)

    def _check_in(self, slot: Slot) -> None:
        if self.use_pool and not slot.broken and slot.pool.wants(slot) and _is_clean(slot.connection):
            slot.pool.checkin(slot)
        else:
            slot.pool.close(slot)


def _for_callers(error: Exception) -> Exception:
    """What ``connection()`` raises where connecting fails with this error."""
    is_known: bool = isinstance(
        error, ldap.INVALID_CREDENTIALS | ldap.NO_SUCH_OBJECT | ldap.SERVER_DOWN | ldap.TIMEOUT
    )
    return error if is_known else BackendError(str(error))


def _with_info(error: Exception, more: str) -> Exception:
    """The same error, without the traceback, that says more."""
    details = error.args[0] if error.args and isinstance(error.args[0], dict) else {"desc": str(error)}
    info = "; ".join(filter(None, [details.get("info"), more]))
    made: Exception = type(error)({**details, "info": info})
    return made


def _is_clean(connection: StateConnector) -> bool:
    """Restore its options. Whether it is as it was when it was opened."""
    if not connection.connected:
        return False
    connection.restore_options()
    return not DRIVER.unread(connection)


def _holder() -> str:
    return safe_label(f"thread {current_thread().name}")
