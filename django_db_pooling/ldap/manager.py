"""A pool for code that talks python-ldap itself. Without Django, and with the names that ldappool has.

::

    from django_db_pooling.ldap import ConnectionManager

    manager = ConnectionManager("ldaps://a.example.org ldaps://b.example.org", "cn=app,o=example", secret)
    with manager.connection() as connection:
        connection.search_s("o=example", ldap.SCOPE_SUBTREE, "(uid=alice)")
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from threading import current_thread
from typing import Any

import ldap

from django_db_pooling.drivers.keepalive import keep_alive
from django_db_pooling.ldap.connecting import connect
from django_db_pooling.ldap.connector import DEAD
from django_db_pooling.ldap.driver import DRIVER
from django_db_pooling.ldap.identities import Identities, Identity, Secret
from django_db_pooling.ldap.pool import DirectoryPool
from django_db_pooling.ldap.state import StateConnector
from django_db_pooling.log import label, redact
from django_db_pooling.pool.limits import Limits
from django_db_pooling.pool.pool import CheckoutTimeout
from django_db_pooling.pool.slots import Slot
from django_db_pooling.pool.stats import Closed, PoolStats
from django_db_pooling.process import fork, upkeep
from django_db_pooling.process.deadline import MIN_SECONDS, Deadline
from django_db_pooling.process.tasks import Tasks

__all__ = ["BackendError", "ConnectionManager", "MaxConnectionReachedError", "StateConnector"]

# A connection that has been idle for longer (seconds) is asked before it is used.
LONG_IDLE = 60.0
# An idle connection that gives no answer for so long (seconds) is dead.
SILENT = 5.0
# Most seconds for opening a connection that nobody waits for.
MOST_FILL = 5.0
# Seconds of silence after which the system asks whether the other side is still there.
KEEPALIVE = 60.0


class MaxConnectionReachedError(Exception):
    """All connections were in use for too long. ``waited``: seconds."""

    def __init__(self, message: str, waited: float = 0.0) -> None:
        super().__init__(message)
        self.waited = waited


class BackendError(Exception):
    """No connection could be made, for a reason other than that no server is there."""

    def __init__(self, msg: str, backend: Any = None) -> None:
        super().__init__(msg)
        self.backend = backend


class ConnectionManager:
    """Connections to one LDAP server, or to any of several with the same data, for all threads and greenlets.

    ``uri``: one, or several with spaces or commas between them, which are used in turn. ``bind``, ``passwd``:
    who the connections are bound as, where ``connection()`` isn't told; None: nobody. ``size``: most
    connections at any moment, whoever they are bound as. ``retry_max``: attempts to connect, ``retry_delay``
    seconds apart. ``use_tls``: StartTLS. ``timeout``: seconds for each answer, -1: ``wait_timeout``.
    ``connector_cls``: a subclass of StateConnector. ``use_pool`` False: each use has a connection of its own.
    ``max_lifetime``: seconds after which a connection is replaced, less up to a tenth.

    ``wait_timeout``: seconds for ``connection()`` in all, that is to wait for a free one and to connect; 0:
    don't wait; None: no limit. ``idle_timeout``: seconds after which an idle one is closed, but not the last
    ``min_size``, which are kept open from the first use on. ``options``: of python-ldap's ``set_option``, for
    each connection. Raises ValueError for an empty ``uri`` and for numbers that make no sense.
    """

    def __init__(
        self,
        uri: str,
        bind: str | None = None,
        passwd: str | None = None,
        size: int = 10,
        retry_max: int = 3,
        retry_delay: float = 0.1,
        use_tls: bool = False,
        timeout: float = -1,
        connector_cls: type[StateConnector] = StateConnector,
        use_pool: bool = True,
        max_lifetime: float | None = 600,
        *,
        wait_timeout: float | None = 30.0,
        idle_timeout: float | None = 300.0,
        min_size: int = 0,
        options: Mapping[int, Any] | None = None,
    ) -> None:
        if not uri.strip():
            raise ValueError("uri must name a server")
        if size < 1 or not 0 <= min_size <= size:
            raise ValueError(f"size must be 1 or more and min_size from 0 to size, not {size} and {min_size}")
        if not issubclass(connector_cls, StateConnector):
            raise TypeError("connector_cls must be a subclass of django_db_pooling.ldap.StateConnector")
        self.uri = uri
        self.bind = bind
        self.retry_max = retry_max
        self.retry_delay = retry_delay
        self.use_tls = use_tls
        self.timeout = timeout
        self.connector_cls = connector_cls
        self.use_pool = use_pool
        self.wait_timeout = wait_timeout
        self.options = dict(options or {})
        # Not an attribute, which would be found in dumps.
        self._passwd: Callable[[], str | None] = lambda: passwd
        self._identities = Identities()
        # Their own is kept for good: it is what the pool opens by itself.
        self._own = self._identities.of(bind, passwd)
        limits = Limits(
            size=size,
            max_outstanding=size if use_pool else None,
            timeout=wait_timeout,
            min_size=min_size if use_pool else 0,
            idle_timeout=idle_timeout,
            max_age=max_lifetime,
        )
        self._made = DirectoryPool(uri, limits, self._own)
        self.tasks = Tasks()
        # Whether there was a use already: before that no connection is opened for min_size.
        self._is_used = False
        upkeep.add(self)

    @property
    def _pool(self) -> DirectoryPool:
        if not fork.noticed[0]:
            fork.notice()
        return self._made

    @property
    def name(self) -> str:
        """What the log calls it: its ``uri``, without what is secret."""
        return self._made.name

    @property
    def passwd(self) -> Secret | None:
        """Something that equals the password, and hides it."""
        passwd = self._passwd()
        return None if passwd is None else Secret(passwd)

    @property
    def size(self) -> int:
        return self._pool.limits.size

    @contextmanager
    def connection(self, bind: str | None = None, passwd: str | None = None) -> Iterator[StateConnector]:
        """A connection of one's own for the block, bound as this manager says or as whoever is given.

        The server is always asked about a password that is given, also where a connection that was bound
        with it is idle: it may have been changed.

        Raises MaxConnectionReachedError when all are in use for ``wait_timeout`` seconds,
        ldap.INVALID_CREDENTIALS for a wrong password, ldap.SERVER_DOWN or ldap.TIMEOUT where no server
        answers, BackendError where else none can be made.
        """
        passwd = self._passwd() if passwd is None else passwd
        bind = self.bind if bind is None else bind
        slot = self._check_out(bind, passwd)
        connection: StateConnector = slot.connection
        try:
            yield connection
        finally:
            connection._again = None
            self._give_back(slot)

    def authenticate(self, dn: str, password: str) -> bool:
        """Whether the server accepts this password for this name; it is asked each time.

        False, too, for an empty one, which LDAP takes for a wish to be nobody
        (https://www.rfc-editor.org/rfc/rfc4513#section-5.1.2). Raises what ``connection()`` raises, but not
        ldap.INVALID_CREDENTIALS.
        """
        if not dn or not password:
            return False
        try:
            with self.connection(dn, password):
                return True
        except ldap.INVALID_CREDENTIALS:
            return False

    def purge(self, bind: str | None, passwd: str | None = None) -> None:
        """Close the connections that are bound as ``bind``, but for those that were with ``passwd``.

        Idle ones now, those in use as they come back.
        """
        kept = None if passwd is None else self._identities.of(bind, passwd)
        self._pool.purge(lambda home: home.bind == bind and home is not kept)

    def close(self) -> None:
        """Close idle connections now, those in use as they come back; the next use opens anew."""
        self._pool.recycle()
        self._pool.journal.write(is_last=True)

    def stats(self) -> PoolStats:
        """What the pool counts; a plain read."""
        return self._pool.snapshot()

    def __len__(self) -> int:
        """How many connections there are, idle, in use or being made."""
        return len(self._pool)

    def __str__(self) -> str:
        lines = [f"{len(self)} of {self.size} connections to {redact(self.uri)}"]
        return "\n".join([*lines, *(f"  {connection}" for connection in self._pool.connections())])

    # -- inside -----------------------------------------------------------------------------

    def _check_out(self, bind: str | None, passwd: str | None) -> Slot:
        deadline = Deadline(self.wait_timeout)
        identity = self._identities.of(bind, passwd)
        while True:
            slot = self._try(identity, bind, passwd, deadline)
            if slot is not None:
                return slot
            if deadline.is_over:
                raise ldap.TIMEOUT({"desc": "Timed out", "info": "no answer on an idle connection"})

    def _try(
        self, identity: Identity, bind: str | None, passwd: str | None, deadline: Deadline
    ) -> Slot | None:
        """None: what came was of no use and is gone."""
        try:
            # From here on slot.pool: in a forked child there is another one.
            slot = self._pool.checkout(deadline.until, _holder(), deadline.began, identity)
        except CheckoutTimeout as error:
            raise MaxConnectionReachedError(str(error), error.waited) from None
        try:
            if slot.connection is None:
                self._open(slot, bind, passwd, deadline)
            elif not self._is_good(slot, identity, bind, passwd, deadline):
                slot.pool.found_dead()
                slot.pool.discard(slot, Closed.BROKEN)
                return None
            slot.connection.patience = (
                None if self.wait_timeout is None else max(self.wait_timeout, MIN_SECONDS)
            )
            slot.connection._again = self._again(slot, bind, passwd)
        except BaseException:
            slot.pool.discard(slot)
            raise
        return slot

    def _is_good(
        self, slot: Slot, identity: Identity, bind: str | None, passwd: str | None, deadline: Deadline
    ) -> bool:
        """Whether an idle connection can be used. Raises what the server says of a password."""
        connection: StateConnector = slot.connection
        left = deadline.left()
        # Half of the time is for a fresh one, should this one be dead without a word.
        seconds = SILENT if left is None else min(left / 2, SILENT)
        if identity is not self._own and bind is not None:
            try:
                connection.confirm(bind, passwd, seconds)
            except DEAD + (ldap.TIMEOUT,):
                return False
        elif slot.pool.doubts(slot) or slot.taken_at - slot.returned_at > LONG_IDLE:
            if not connection.is_usable(seconds):
                return False
        else:
            return True
        slot.pool.proved(slot)
        return True

    def _open(self, slot: Slot, bind: str | None, passwd: str | None, deadline: Deadline) -> None:
        """Connect, and try again while no server is there. Raises as ``connection()`` says."""
        tries = 0
        while True:
            tries += 1
            try:
                DRIVER.open(slot, self._connecting(bind, passwd, deadline), deadline.left())
                break
            except ldap.LDAPError as error:
                in_vain = tries >= self.retry_max or not DRIVER.server_away(error)
                until = deadline.until
                if in_vain or (until is not None and time.monotonic() + self.retry_delay >= until):
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
        if slot.home is not self._own and isinstance(error, ldap.INVALID_CREDENTIALS | ldap.NO_SUCH_OBJECT):
            # Somebody's password is wrong: that says nothing of the server.
            slot.pool.discard(slot)
            return
        # Without the frames that it has come through, in which there are passwords.
        slot.pool.open_failed(slot, type(error)(*error.args))
        # Somebody must tell of it, also where there is no connection yet.
        self._need_upkeep()

    def _connecting(self, bind: str | None, passwd: str | None, deadline: Deadline) -> Any:
        return partial(
            connect,
            self.connector_cls,
            self.uri,
            bind,
            passwd,
            start_tls=self.use_tls,
            options=self.options,
            timeout=self.timeout,
            seconds=deadline.left(),
        )

    def _again(self, slot: Slot, bind: str | None, passwd: str | None) -> Callable[[Deadline], bool]:
        """What puts a fresh connection into the dead one's place, if there is time left.

        Not if the fresh one would be another user's, or others wait for answers of the dead one.
        """
        connection: StateConnector = slot.connection
        pool = self._pool
        # Weak: a slot that is dropped is reclaimed at once, which a cycle through its connection would stop.
        lease = weakref.ref(slot)

        # Not a partial, which tells its arguments.
        def open_again(deadline: Deadline) -> bool:
            slot = lease()
            if slot is None:
                return False
            if connection.is_changed or connection.pending or slot.connection is not connection:
                return False
            if slot.attempt is not None or deadline.is_over:
                return False
            try:
                DRIVER.open(slot, self._connecting(bind, passwd, deadline), deadline.left())
            except ldap.LDAPError:
                return False
            connection.become(slot.connection)
            slot.connection = connection
            pool.reopened(slot)
            return True

        return open_again

    def _give_back(self, slot: Slot) -> None:
        if self.use_pool and not slot.unusable and slot.pool.keeps(slot) and _is_clean(slot.connection):
            slot.pool.checkin(slot)
        else:
            slot.pool.close(slot)

    # -- upkeep -----------------------------------------------------------------------------

    def _need_upkeep(self) -> None:
        self._is_used = True
        upkeep.ensure_running()

    def every_second(self) -> bool:
        """Called by the housekeeper."""
        if not self._is_used:
            return False
        pool = self._pool
        pool.maintain()
        slot = pool.reserve_minimum()
        if slot is not None:
            try:
                # Everybody else's upkeep waits for this.
                seconds = min(self.wait_timeout or MOST_FILL, MOST_FILL)
                self._open(slot, self.bind, self._passwd(), Deadline(seconds))
                pool.checkin(slot)
            except BaseException as error:
                # Also where it could not even begin; where it has failed it is discarded already.
                pool.discard(slot)
                if not isinstance(error, Exception):
                    raise
                pool.journal.note("min_size", error=redact(error))
        return bool(len(pool) or pool.limits.min_size or pool.journal.is_pending)

    def abandon(self) -> None:
        """Called in a forked child."""
        self._identities.renew_lock()
        pool = self._made
        # For whoever has one of its connections at this moment.
        pool.closing = True
        fork.cut_off(DRIVER.fileno(connection) for connection in pool.connections())
        fork.never_free(pool)
        self._made = DirectoryPool(self.uri, pool.limits, self._own)

    def end(self) -> None:
        """Called at the end of the process."""
        self.close()


def _is_clean(connection: StateConnector) -> bool:
    """Whether it can be made as it was when it was opened; it is, then."""
    if DRIVER.broken(connection):
        return False
    connection.restore()
    return not DRIVER.unread(connection)


def _holder() -> str:
    return label(f"thread {current_thread().name}")
