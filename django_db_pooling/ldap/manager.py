"""A pool for code that uses python-ldap directly. Needs no Django, and has ldappool's names.

::

    from django_db_pooling.ldap import ConnectionManager

    manager = ConnectionManager("ldaps://a.example.org ldaps://b.example.org", "cn=app,o=example", secret)
    with manager.connection() as connection:
        connection.search_s("o=example", ldap.SCOPE_SUBTREE, "(uid=alice)")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ldap

from django_db_pooling.ldap.checkout import Checkouts
from django_db_pooling.ldap.identities import Secret
from django_db_pooling.ldap.state import StateConnector
from django_db_pooling.ldap.turns import give_way
from django_db_pooling.log import redact
from django_db_pooling.pool.limits import Limits
from django_db_pooling.pool.stats import PoolStats
from django_db_pooling.process import upkeep
from django_db_pooling.process.deadline import Deadline
from django_db_pooling.process.tasks import Tasks

# Seconds for opening a connection for min_size, which nobody waits for.
MAX_FILL = 5.0


class ConnectionManager(Checkouts):
    """Connections to one LDAP server, or to any of several with the same data, for all threads and greenlets.

    ``uri``: one, or several with spaces or commas between them, which are used in turn. ``bind``, ``passwd``:
    who the connections are bound as, unless ``connection()`` is given another user; None: anonymous.
    ``size``: most connections at any moment, of all users together. ``retry_max``: attempts to connect,
    ``retry_delay`` (0.1) seconds apart; None: as many as there is time for in ``connect_retry``. ``use_tls``:
    StartTLS. ``timeout``: seconds for each answer, -1: ``wait_timeout``. ``connector_cls``: a subclass of
    StateConnector. ``use_pool`` False: each use has a connection of its own. ``max_lifetime``: seconds after
    which a connection is replaced, with up to 10 % jitter.

    ``wait_timeout``: seconds for ``connection()`` in all, that is to wait for a free one and to connect; 0:
    don't wait; None: no limit. ``idle_timeout``: seconds after which an idle one is closed, but not the last
    ``min_size``, which are kept open from the first use on. ``connect_retry``: seconds for which a caller
    waits for a server that is away. ``options``: of python-ldap's ``set_option``, for each connection;
    ``OPT_REFERRALS`` is 0 where they don't say. Raises ValueError for an empty ``uri`` and for numbers that
    make no sense.
    """

    def __init__(
        self,
        uri: str,
        bind: str | None = None,
        passwd: str | None = None,
        size: int = 10,
        retry_max: int | None = None,
        retry_delay: float | None = None,
        use_tls: bool = False,
        timeout: float = -1,
        connector_cls: type[StateConnector] = StateConnector,
        use_pool: bool = True,
        max_lifetime: float | None = 600,
        *,
        wait_timeout: float | None = 30.0,
        idle_timeout: float | None = 300.0,
        min_size: int = 0,
        connect_retry: float = 5.0,
        options: Mapping[int, Any] | None = None,
    ) -> None:
        if not uri.strip():
            raise ValueError("uri must name a server")
        if size < 1 or not 0 <= min_size <= size:
            raise ValueError(f"size must be 1 or more and min_size from 0 to size, not {size} and {min_size}")
        if not issubclass(connector_cls, StateConnector):
            raise TypeError("connector_cls must be a subclass of django_db_pooling.ldap.StateConnector")
        limits = Limits(
            size=size,
            max_outstanding=size if use_pool else None,
            timeout=wait_timeout,
            min_size=min_size if use_pool else 0,
            idle_timeout=idle_timeout,
            max_age=max_lifetime,
            connect_retry=connect_retry,
            slow_checkout=None,
        )
        super().__init__(
            uri,
            bind,
            passwd,
            limits,
            retry_max=retry_max,
            retry_delay=retry_delay,
            use_tls=use_tls,
            timeout=timeout,
            connector_cls=connector_cls,
            use_pool=use_pool,
            options=options,
        )
        self.tasks = Tasks()
        upkeep.add(self, own_thread=True)

    @property
    def name(self) -> str:
        """What the log calls it: its ``uri``, redacted."""
        return self._pool_of_process.name

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
        """A connection for the block, bound as this manager's user or as the one that is given.

        The server checks a password that is given each time, even if a connection that was bound with it is
        idle: it may have been changed.

        Raises MaxConnectionReachedError when all are in use for ``wait_timeout`` seconds,
        ldap.INVALID_CREDENTIALS for a wrong password, ldap.SERVER_DOWN or ldap.TIMEOUT when no server
        answers, BackendError when connecting fails for another reason.
        """
        passwd = self._passwd() if passwd is None else passwd
        bind = self.bind if bind is None else bind
        slot = self._check_out(bind, passwd)
        connection: StateConnector = slot.connection
        connection.active = True
        try:
            yield connection
        finally:
            connection._reopen, connection.active = None, False
            waiter = slot.pool.queue.head()
            self._check_in(slot)
        if waiter is not None:
            give_way(waiter)

    def authenticate(self, dn: str, password: str) -> bool:
        """Whether the server accepts this password for this name; it checks each time.

        False, too, for an empty one, which to LDAP is an anonymous bind
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
        """Close the connections that are bound as ``bind``, except those bound with ``passwd``.

        Idle ones now, those in use when they are returned.
        """
        kept = None if passwd is None else self._identities.of(bind, passwd)
        self._pool.purge(lambda affinity: affinity.bind == bind and affinity is not kept)

    def close(self) -> None:
        """Close idle connections now, those in use when they are returned; the next use opens new ones."""
        self._pool.recycle()
        self._pool.journal.write(is_last=True)

    def stats(self) -> PoolStats:
        """The pool's counts; a plain read."""
        return self._pool.snapshot()

    def __len__(self) -> int:
        """How many connections there are: idle, in use or opening."""
        return len(self._pool)

    def __str__(self) -> str:
        lines = [f"{len(self)} of {self.size} connections to {redact(self.uri)}"]
        return "\n".join([*lines, *(f"  {connection}" for connection in self._pool.connections())])

    def every_second(self) -> bool:
        """Called by process.upkeep."""
        # This first: in a forked child it isn't used any more.
        pool = self._pool
        if not self._is_used:
            return False
        pool.maintain()
        slot = pool.reserve_minimum(self._own_identity)
        if slot is not None:
            try:
                # Who closes the manager, or ends the process, may wait for this.
                seconds = min(self.wait_timeout or MAX_FILL, MAX_FILL)
                self._open(
                    slot,
                    self._identities.credentials(self.bind, self._passwd()),
                    Deadline(seconds),
                    once=True,
                )
                pool.checkin(slot)
            except BaseException as error:
                # Harmless where _open() has discarded it already.
                pool.discard(slot)
                if not isinstance(error, Exception):
                    raise
                pool.journal.note("min_size", error=redact(error))
        return bool(len(pool) or pool.limits.min_size or pool.journal.is_pending)

    def end(self) -> None:
        """Called at the end of the process, by process.upkeep."""
        self.close()
