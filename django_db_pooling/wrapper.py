"""The project's own DatabaseWrapper, made to borrow its physical connection from a pool.

``pooled(cls)`` makes the subclass. It takes a connection where Django would open one, in
``connect()``, and gives it back where Django would close it, and at the end of its owner.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from django.db import Error as DjangoError
from django.db import OperationalError, connections
from django.db.backends.base.base import NO_DB_ALIAS, BaseDatabaseWrapper
from django.db.utils import DatabaseErrorWrapper
from django.utils.functional import cached_property

from django_db_pooling import conf, drivers, owner
from django_db_pooling.drivers.base import Driver
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.pool import CheckoutTimeout
from django_db_pooling.registry import DatabasePool, registry

if TYPE_CHECKING:
    from django_db_pooling.slot import Slot

    class Base(BaseDatabaseWrapper):
        """What every backend's wrapper has, as far as it is used here and the stubs don't know it."""

        Database: Any
        _thread_sharing_count: int

        def is_in_memory_db(self) -> bool: ...
        def _set_autocommit(self, autocommit: bool) -> None: ...
        def _close(self) -> None: ...

else:
    Base = object

logger = logging.getLogger("django_db_pooling")

# A connection that has been idle for longer (seconds) is asked before it is used.
LONG_IDLE = 60.0
# Connecting gets at least this long (seconds), also where `timeout` is 0 or nearly over.
LEAST_CONNECT = 1.0


class ConnectionErrors(DatabaseErrorWrapper):
    """Django's translation of database errors, which also notices what they leave behind.

    After an error that has killed the connection, or an exception from elsewhere (a timeout, a
    kill) that struck in the middle of a statement, the next answer could be another statement's.
    """

    wrapper: PooledWrapper

    def __enter__(self) -> None:
        wrapper = self.wrapper
        if not (wrapper.in_atomic_block or wrapper._slot is None or wrapper._pool.dialect.remembers):
            # Before every statement: afterwards this driver can't tell whether a transaction was open.
            connection = wrapper._slot.connection
            if connection is not None:
                wrapper._begun = wrapper._pool.dialect.in_transaction(connection) is not False

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        if exc_type is None:
            return
        try:
            super().__exit__(exc_type, exc_value, traceback)
        finally:
            self.wrapper.lose_if_broken(exc_value)


class Part:
    """One of the objects that Django's wrapper makes for itself, and that refer back to it.

    What is in the wrapper's own dictionary comes first: this makes the part again once that is gone.
    """

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._name = name

    def __get__(self, wrapper: Any, owner: type[Any]) -> Any:
        if wrapper is None:
            return self
        part = wrapper.__dict__[self._name] = getattr(wrapper, f"{self._name}_class")(wrapper)
        return part


class PooledWrapper(Base):
    """Mixed in before a backend's DatabaseWrapper.

    ``_slot`` is the lease on what ``connection`` is: both are there, or neither, but for a
    connection that was lost in a transaction: its dead object stays, so that statements fail
    until the transaction has ended.
    """

    _slot: Slot | None = None
    # The one that serves these settings, as far as it is known yet.
    _pool: DatabasePool = cast(DatabasePool, None)
    _lost = False
    # A transaction was open before the last statement, where the driver doesn't remember that.
    _begun = False
    # It is one of set_autocommit(False), which has no end of its own.
    _by_hand = False
    # Cursors that may outlive the checkout.
    _cursors: set[weakref.ref[Any]]
    # During a checkout: until when (time.monotonic()), and the parameters of connecting.
    _deadline: float | None = None
    _params: dict[str, Any]

    client, creation, features, introspection, ops, validation = (Part() for _ in range(6))

    # -- taking -----------------------------------------------------------------------------

    def connect(self) -> None:
        """Check a connection out. Raises PoolTimeout, or what Django raises when connecting fails."""
        self._lost = self._by_hand = False
        if self._slot is not None:
            # Somebody has set `connection` to None.
            self._pool.discard(self._let_go())
        if not self._find_pool():
            super().connect()
            return
        timeout = self._pool.limits.timeout
        began = time.monotonic()
        self._deadline = None if timeout is None else began + timeout
        mine = owner.current()
        try:
            self._cursors = set()
            while not self._check_out(began, mine.holder):
                self._pool = registry.pool_for(self, self._pool.dialect)
            mine.add(self)
        except BaseException as error:
            if self._slot is not None:
                self._pool.discard(self._let_go())
            self.connection = None
            if isinstance(error, CheckoutTimeout):
                raise PoolTimeout(str(error), error.waited) from None
            raise
        finally:
            self._deadline = None

    def _find_pool(self) -> bool:
        """Whether there is one for what the settings say this instant: not all of them are pooled."""
        pool = self._pool
        if pool is None or pool.closing or not pool.serves(self):
            driver = self._pooling_driver()
            if driver is None:
                return False
            self.check_settings()
            self._pool = registry.pool_for(self, driver)
        return True

    def _check_out(self, began: float, holder: object) -> bool:
        """One try. False: what came was of no use and is gone."""
        pool = self._pool
        self._slot = slot = pool.checkout(self._deadline, holder, began)
        if not pool.serves(self):
            # The settings have changed while this waited.
            pool.checkin(self._let_go())
            return False
        if slot.connection is None:
            self._open(slot)
            return True
        self._adopt(slot)
        if self._make_usable(slot):
            return True
        pool.death_seen()
        pool.discard(self._let_go(), broken=True)
        self.connection = None
        return False

    def __copy__(self) -> PooledWrapper:
        """A shallow copy, as Django's own tests make, has no part in the lease."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.__dict__.pop("wrap_database_errors", None)
        if self._slot is not None:
            twin._slot = twin.connection = None
            twin._cursors = set()
        return twin

    def _pooling_driver(self) -> Driver | None:
        """None where this wrapper isn't pooled."""
        if self.alias == NO_DB_ALIAS or conf.is_off(self.settings_dict):
            return None
        if self.vendor == "sqlite" and self.is_in_memory_db():
            return None
        return drivers.find(self.Database)

    def _open(self, slot: Slot) -> None:
        pool = self._pool
        self.__dict__.update(pool.learned)
        try:
            super().connect()
            if self._slot is not slot:
                raise OperationalError(f"{self.alias}: closed or lost by a receiver of connection_created")
            pool.dialect.connected(slot.connection, self._params)
            pool.learn(self)
            # The settings may have changed while this connected.
            slot.unusable = not pool.serves(self)
        except BaseException as error:
            self._slot = None
            pool.open_failed(slot, error)
            raise
        pool.opened(slot)
        registry.ensure_looked_after()

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        slot = self._slot
        if slot is None or slot.connection is not None:
            return super().get_new_connection(conn_params)
        self._params = conn_params
        seconds = self._seconds_left()
        if seconds is not None:
            conn_params = conn_params.copy()
            self._pool.dialect.limit_connect(conn_params, seconds)
        slot.connection = connection = super().get_new_connection(conn_params)
        return connection

    def _seconds_left(self) -> float | None:
        """For talking to the server during a checkout; None: as long as it takes."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), LEAST_CONNECT)

    def _adopt(self, slot: Slot) -> None:
        """What Django's connect() does besides connecting."""
        self.connection = slot.connection
        self.in_atomic_block = False
        self.savepoint_ids = []
        self.atomic_blocks = []
        self.needs_rollback = False
        self.health_check_enabled = self.settings_dict["CONN_HEALTH_CHECKS"]
        self.close_at = None
        self.closed_in_transaction = False
        self.errors_occurred = False
        self.health_check_done = True
        self.autocommit = self.settings_dict["AUTOCOMMIT"]
        self.run_on_commit = []
        self.__dict__.update(self._pool.learned)

    def _make_usable(self, slot: Slot) -> bool:
        if slot.dirty:
            slot.dirty = False
            if not self._roll_back(slot):
                return False
        must_ask = (
            self.health_check_enabled
            or self._pool.doubts(slot)
            or slot.taken_at - slot.returned_at > LONG_IDLE
        )
        return not must_ask or self.is_usable()

    def is_usable(self) -> bool:
        slot = self._slot
        if slot is None:
            return self.connection is not None and not self._lost and super().is_usable()
        try:
            usable = self._pool.dialect.usable(self.connection, super().is_usable, self._seconds_left())
        except BaseException:
            self.lose()
            raise
        if usable:
            self._pool.proved(slot)
        else:
            # Django's health check closes next, and doesn't say why.
            slot.unusable = True
        return usable

    def create_cursor(self, name: str | None = None) -> Any:
        cursor = super().create_cursor(name)
        if self._slot is not None:
            self._cursors.add(weakref.ref(cursor, self._cursors.discard))
        return cursor

    @cached_property
    def wrap_database_errors(self) -> ConnectionErrors:
        return ConnectionErrors(self)

    # -- losing -----------------------------------------------------------------------------

    def lose_if_broken(self, error: BaseException) -> None:
        """Called with every exception that leaves the driver."""
        slot = self._slot
        if slot is None or slot.connection is None:
            return
        dialect = self._pool.dialect
        broken = dialect.broken(slot.connection)
        if isinstance(error, self.Database.Error):
            if broken:
                self._pool.death_seen()
                self.lose()
        elif broken or dialect.interrupted(slot.connection, error):
            self.lose()

    def lose(self) -> None:
        """Cut this connection: its slot is free at once, and a transaction on it fails."""
        slot, dialect = self._slot, self._pool.dialect
        if slot is None:
            return
        if dialect.remembers and slot.connection is not None:
            self._begun = dialect.in_transaction(slot.connection) is not False
        self._pool.discard(self._let_go(), broken=True)
        if self.in_atomic_block:
            self.closed_in_transaction = True
            self.needs_rollback = True
            self._lost = True
            return
        ends_atomic = self.settings_dict["AUTOCOMMIT"] and not (self.autocommit or self._by_hand)
        if (self._begun or self._by_hand) and not ends_atomic:
            self._lost = True
        else:
            # Nothing would be torn apart by going on with another connection.
            self.connection = None

    def set_autocommit(
        self, autocommit: bool, force_begin_transaction_with_broken_autocommit: bool = False
    ) -> None:
        if (
            autocommit
            and self.connection is None
            and self.settings_dict["AUTOCOMMIT"]
            and not self.run_commit_hooks_on_set_autocommit_on
        ):
            # An atomic block whose connection was lost ends here. The next connection has autocommit on.
            self.validate_no_atomic_block()
            self.autocommit = True
            return
        super().set_autocommit(autocommit, force_begin_transaction_with_broken_autocommit)
        self._by_hand = not autocommit and not force_begin_transaction_with_broken_autocommit

    def _let_go(self) -> Slot:
        slot = self._slot
        assert slot is not None
        self._slot = None
        return slot

    # -- giving back --------------------------------------------------------------------------

    @property
    def slot(self) -> Slot | None:
        """The lease on the connection that is checked out."""
        return self._slot

    @property
    def holds(self) -> bool:
        """Whether a connection is checked out, or was lost and its dead object is still here."""
        return self._slot is not None or self._lost

    @property
    def is_shared(self) -> bool:
        """Whether several threads use this wrapper, as LiveServerTestCase does: its end isn't theirs."""
        return bool(self._thread_sharing_count > 0)

    def _close(self) -> None:
        """Called by Django's close(), which sets ``connection`` to None or notes the transaction."""
        if self._slot is None:
            if not self._lost:
                super()._close()
        elif self.in_atomic_block:
            self._pool.close(self._let_go())
            self._lost = True
        else:
            try:
                self._give_back()
            finally:
                # As close() will: what was given back is somebody else's.
                self.connection = None

    def close_if_unusable_or_obsolete(self) -> None:
        """Called by Django when a request starts and ends: a connection's scope is over."""
        if self.connection is None:
            return
        if self.in_atomic_block or self._thread_sharing_count > 0 or not self.holds:
            super().close_if_unusable_or_obsolete()
        else:
            self.give_back()

    def give_back(self) -> None:
        """End of the scope: nothing is left of it, whatever state the wrapper is in."""
        if self.in_atomic_block:
            logger.warning("%s: rolling back an atomic block that was never left", self.alias)
        try:
            if self._slot is not None:
                self._give_back()
        finally:
            self._reset()

    def _reset(self) -> None:
        self.connection = None
        self._lost = False
        self.in_atomic_block = False
        self.closed_in_transaction = False
        self.savepoint_ids = []
        self.atomic_blocks = []
        self.run_on_commit = []

    def _give_back(self) -> None:
        """Make the connection clean (I/O where a transaction is open) and check it in, or close it."""
        slot = self._let_go()
        try:
            clean = self._worth_keeping(slot) and (
                self._at_rest(slot) or (not self._damaged(slot) and self._roll_back(slot))
            )
        except BaseException:
            self._pool.discard(slot)
            raise
        if clean:
            self._pool.checkin(slot)
        else:
            self._pool.close(slot)

    def abandon(self) -> None:
        """The owner has ended: give back what is clean, drop the rest. No I/O, as in finalizers."""
        if self._slot is None or self.is_shared:
            return
        slot = self._let_go()
        if self._worth_keeping(slot) and (
            self._at_rest(slot) or (not self._damaged(slot) and self._in_transaction(slot) is None)
        ):
            slot.dirty = self._in_transaction(slot) is None
            self._pool.checkin(slot)
        else:
            self._pool.discard(slot)
        self._reset()

    def dissolve(self) -> None:
        """Its thread or greenlet has ended: nothing of it is left for the garbage collector.

        With hundreds of requests waiting, collecting a wrapper costs more than making it. Whoever
        still has this one can go on with it.
        """
        mine = self.__dict__
        for name in PARTS:
            if type(mine.get(name)) is getattr(self, f"{name}_class", None):
                del mine[name]
        mine.pop("wrap_database_errors", None)

    def inherit(self) -> None:
        """In a forked child: the connection is the parent's."""
        if self._slot is not None:
            self._slot = None
            if self.in_atomic_block:
                self.closed_in_transaction = True
                self.needs_rollback = True
                self._lost = True
            else:
                self.connection = None

    def _worth_keeping(self, slot: Slot) -> bool:
        pool = self._pool
        if slot.unusable or not pool.keeps(slot) or not pool.serves(self):
            return False
        if self._cursors and (self._damaged(slot) or not self._cut_cursors_off()):
            return False
        if self.errors_occurred:
            # Django would ask the server here. The next taker does.
            pool.doubt(slot)
        return True

    def _cut_cursors_off(self) -> bool:
        for ref in list(self._cursors):
            cursor = ref()
            if cursor is not None and not self._pool.dialect.detach(cursor):
                return False
        return True

    def _at_rest(self, slot: Slot) -> bool:
        """Whether it is certain that there is nothing to clean."""
        return self.autocommit == self.settings_dict["AUTOCOMMIT"] and self._pool.dialect.at_rest(
            slot.connection
        )

    def _damaged(self, slot: Slot) -> bool:
        dialect = self._pool.dialect
        return dialect.broken(slot.connection) or dialect.unread(slot.connection)

    def _in_transaction(self, slot: Slot) -> bool | None:
        """None where nobody can know without asking."""
        if self.autocommit != self.settings_dict["AUTOCOMMIT"]:
            return True
        return self._pool.dialect.in_transaction(slot.connection)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is known to be open, however it was begun."""
        if self.in_atomic_block or self._slot is None:
            return self.in_atomic_block or self._lost
        return self._in_transaction(self._slot) is True

    def _roll_back(self, slot: Slot) -> bool:
        """End a transaction that its user left open: never by a commit. False if that fails."""
        try:
            self._pool.dialect.rollback(slot.connection)
            if self.autocommit != self.settings_dict["AUTOCOMMIT"]:
                self._set_autocommit(self.settings_dict["AUTOCOMMIT"])
        except (self.Database.Error, DjangoError, OSError) as error:
            logger.warning("%s: a transaction can't be rolled back: %r", self.alias, error)
            return False
        return True

    # -- Django's other uses --------------------------------------------------------------------

    @contextmanager
    def _nodb_cursor(self) -> Iterator[Any]:
        # For creating and dropping databases, which idle connections would stand in the way of.
        for pool in registry.pools():
            pool.drain()
        with super()._nodb_cursor() as cursor:
            yield cursor

    def fill(self, pool: DatabasePool, slot: Slot) -> None:
        """Open a connection for a bare slot and check it in: the housekeeper's, for MIN_SIZE."""
        self._pool = pool
        self._cursors = set()
        self._slot = slot
        timeout = pool.limits.timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        # Receivers of connection_created ask for connections[alias] and mean this one.
        connections[self.alias] = self
        try:
            self._open(slot)
        finally:
            del connections[self.alias]
        self.give_back()


PARTS = tuple(name for name, value in vars(PooledWrapper).items() if isinstance(value, Part))
_subclasses: dict[type[Any], type[Any]] = {}


def pooled(cls: type[Any]) -> type[Any]:
    """The pooled subclass of a backend's DatabaseWrapper. It goes by the same name."""
    if issubclass(cls, PooledWrapper):
        return cls
    subclass = _subclasses.get(cls)
    if subclass is None:
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        subclass = _subclasses.setdefault(cls, type(cls.__name__, (PooledWrapper, cls), names))
    return subclass
