"""The project's own DatabaseWrapper, made to borrow its physical connection from a pool.

``pooled(cls)`` makes the subclass of a backend's class. It checks out where Django would connect and in
where Django would close; what it does is in the other modules of this package.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from django.db import Error
from django.utils.functional import cached_property

from django_db_pooling import drivers
from django_db_pooling.backend import checkin, errors, opening, statements, transactions
from django_db_pooling.backend.base import LeaseHolder
from django_db_pooling.backend.cursor import PooledCursor
from django_db_pooling.database_pool import Identity
from django_db_pooling.pool.slot import Slot
from django_db_pooling.process import fork
from django_db_pooling.process.deadline import Deadline
from django_db_pooling.registry import registry


class Helper:
    """One of the objects that Django's wrapper makes for itself, and that refer back to it.

    A descriptor that yields to the instance's attribute, and makes that again when it was deleted.
    """

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._name = name

    def __get__(self, wrapper: Any, owner: type[Any]) -> Any:
        if wrapper is None:
            return self
        helper = wrapper.__dict__[self._name] = getattr(wrapper, f"{self._name}_class")(wrapper)
        return helper


class PooledWrapper(LeaseHolder):
    """Mixed in before a backend's DatabaseWrapper."""

    client, creation, features, introspection, ops, validation = (Helper() for _ in range(6))

    @property
    def plain(self) -> Any:
        return super()

    @cached_property
    def wrap_database_errors(self) -> errors.ConnectionErrors:
        return errors.ConnectionErrors(self)

    # -- connecting and closing -------------------------------------------------------------------

    def connect(self) -> None:
        transactions.connect(self)

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        return opening.get_new_connection(self, conn_params)

    def _close(self) -> None:
        checkin.close(self)

    def close(self) -> None:
        if not fork.noticed[0]:
            fork.notice()
        transactions.close(self)

    def close_if_unusable_or_obsolete(self) -> None:
        """Called by Django when a request starts and ends: the scope of a connection is over."""
        if not fork.noticed[0]:
            fork.notice()
        if self._resting is not None:
            checkin.end_rest(self)
        if self.connection is None:
            return
        if self.in_atomic_block or not self.holds:
            super().close_if_unusable_or_obsolete()
        else:
            self.give_back()

    def is_usable(self) -> bool:
        """In transaction scope without a connection: of one that is checked out for this."""
        if not fork.noticed[0]:
            fork.notice()
        if self.connection is None and transactions.will_be_transaction_scoped(self):
            try:
                with self.cursor():
                    return errors.is_usable(self, super().is_usable)
            except Error:
                return False
        return errors.is_usable(self, super().is_usable)

    @contextmanager
    def temporary_connection(self) -> Iterator[Any]:
        """Django's would close a connection that it had to open: in a block that breaks the block."""
        with self.cursor() if self.is_awaited else super().temporary_connection() as cursor:
            yield cursor

    @contextmanager
    def _nodb_cursor(self) -> Iterator[Any]:
        """Django's, for creating and dropping databases, which fails while others are connected to them."""
        for pool in registry.pools():
            # A replica in tests, for example, is an alias of the same database.
            if pool.name == self.alias or pool.settings_dict["NAME"] == self.settings_dict["NAME"]:
                pool.drain()
        with super()._nodb_cursor() as cursor:
            yield cursor

    # -- transactions -----------------------------------------------------------------------------

    def get_autocommit(self) -> bool:
        return transactions.get_autocommit(self)

    def set_autocommit(
        self, autocommit: bool, force_begin_transaction_with_broken_autocommit: bool = False
    ) -> None:
        if not fork.noticed[0]:
            fork.notice()
        transactions.set_autocommit(self, autocommit, force_begin_transaction_with_broken_autocommit)

    def commit(self) -> None:
        if not fork.noticed[0]:
            fork.notice()
        super().commit()
        # Where the settings turn autocommit off, there is nothing else that would end a transaction.
        if not self.settings_dict["AUTOCOMMIT"]:
            transactions.release_if_free(self, is_over=True)

    def rollback(self) -> None:
        if not fork.noticed[0]:
            fork.notice()
        super().rollback()
        # Its frames refer to the slot.
        self.rollback_exc = None
        if not self.settings_dict["AUTOCOMMIT"]:
            transactions.release_if_free(self, is_over=True)

    def operation(self, deadline: Deadline | None = None) -> AbstractContextManager[None]:
        return transactions.operation(self, deadline)

    # -- cursors and statements ---------------------------------------------------------------------

    def _cursor(self, name: str | None = None) -> Any:
        if not fork.noticed[0]:
            fork.notice()
        try:
            with self._depth:
                return super()._cursor(name)
        except BaseException:
            transactions.release_if_free(self)
            raise

    def create_cursor(self, name: str | None = None) -> Any:
        cursor = super().create_cursor(name)
        if self._lease is not None:
            transactions.cursor_opened(self, self._lease, cursor, name is not None)
        return cursor

    def make_cursor(self, cursor: Any) -> Any:
        made = super().make_cursor(cursor)
        made.__class__ = mixed(PooledCursor, type(made))
        return made

    def make_debug_cursor(self, cursor: Any) -> Any:
        made = super().make_debug_cursor(cursor)
        made.__class__ = mixed(PooledCursor, type(made))
        return made

    def before_statement(self, sql: Any) -> None:
        if not fork.noticed[0]:
            fork.notice()
        statements.before(self, sql)

    def after_statement(self, sql: Any) -> None:
        statements.after(self, sql)

    def statement_failed(self, error: BaseException) -> None:
        errors.statement_failed(self, error)

    def cursor_closed(self, cursor: Any) -> None:
        transactions.cursor_closed(self, cursor)

    def lose(self) -> None:
        errors.lose(self)

    # -- for its owner ------------------------------------------------------------------------------

    def pin_session(self) -> None:
        statements.pin_session(self)

    def give_back(self) -> None:
        checkin.give_back(self)

    def abandon(self) -> None:
        checkin.abandon(self)

    def inherit(self) -> None:
        checkin.inherit(self)

    def fill(self, identity: Identity, slot: Slot) -> None:
        opening.fill(self, identity, slot)

    def __copy__(self) -> PooledWrapper:
        """A shallow copy, as Django's own tests make, has no part in the lease."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        for name in ("wrap_database_errors", "_depth"):
            copied.__dict__.pop(name, None)
        if self._lease is not None:
            copied._lease = copied.connection = None
        copied._resting = None
        return copied

    def break_cycles(self) -> None:
        """Its thread or greenlet has ended: nothing of it is left to the garbage collector.

        With hundreds of requests waiting, collecting a wrapper costs more than making it. Code that still
        refers to this one can go on using it.
        """
        attributes = self.__dict__
        for name in _HELPERS:
            if type(attributes.get(name)) is getattr(self, f"{name}_class", None):
                del attributes[name]
        attributes.pop("wrap_database_errors", None)


_HELPERS = tuple(name for name, value in vars(PooledWrapper).items() if isinstance(value, Helper))


@functools.cache
def pooled(cls: type[Any]) -> type[Any]:
    """The pooled subclass of a backend's DatabaseWrapper, which goes by the same name.

    The class itself where it has no driver that can be pooled.
    """
    driver = drivers.find(getattr(cls, "Database", None))
    if driver is None or issubclass(cls, PooledWrapper):
        return cls
    for mixin in reversed(driver.mixins):
        cls = mixed(mixin, cls)
    return mixed(PooledWrapper, cls)


_subclasses: dict[tuple[type[Any], type[Any]], type[Any]] = {}


def mixed(mixin: type[Any], cls: type[Any]) -> type[Any]:
    """The subclass of ``cls`` with ``mixin`` before it, always the same one. It goes by ``cls``'s name."""
    subclass = _subclasses.get((mixin, cls))
    if subclass is None:
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        # Another thread may be making it, too. Wrappers of one class have one pool.
        subclass = _subclasses.setdefault((mixin, cls), type(cls.__name__, (mixin, cls), names))
    return subclass
