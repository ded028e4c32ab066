"""The project's own DatabaseWrapper, made to borrow its physical connection from a pool.

``pooled(cls)`` makes the subclass of a backend's class. It checks out where Django would connect and in
where Django would close; what it does is in the other modules of this package.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import Error
from django.utils.functional import cached_property

from django_db_pooling import drivers
from django_db_pooling.backend import (
    checkin,
    errors,
    opening,
    receivers,
    reuse,
    schema,
    statements,
    transactions,
)
from django_db_pooling.backend.base import LeaseHolder
from django_db_pooling.backend.cursor import PooledCursor
from django_db_pooling.backend.lease import LOST
from django_db_pooling.process import fork
from django_db_pooling.registry import registry

_subclasses: dict[tuple[type[Any], type[Any]], type[Any]] = {}
# By the class of a backend's cursor wrapper.
_cursor_classes: dict[type[Any], type[Any]] = {}


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

    connect = transactions.connect

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        return opening.get_new_connection(self, conn_params)

    _close = checkin.close
    close = transactions.close

    def close_if_unusable_or_obsolete(self) -> None:
        """Called by Django when a request starts and ends, and by others in between: with cursors that are
        still read it goes on, as in Django.
        """
        if not fork.noticed[0]:
            fork.notice()
        if self._resting is not None:
            checkin.end_rest(self)
        if self.connection is None:
            return
        if self.in_atomic_block or self._thread_sharing_count:
            super().close_if_unusable_or_obsolete()
        elif self._vacant is LOST:
            # Which Django doesn't know where it was no error of the database's.
            checkin.give_back(self)
        elif self._lease is None or self._lease.may_be_read:
            super().close_if_unusable_or_obsolete()
        else:
            try:
                checkin.check_in(self)
            finally:
                self.connection = None
                if self.run_on_commit:
                    self.run_on_commit = []

    def close_pool(self) -> None:
        """Django's name: close the alias's idle connections now, those in use when they are returned."""
        for pool in registry.pools(self.alias):
            pool.recycle()
        if (self.settings_dict.get("OPTIONS") or {}).get("pool"):
            # Of a copy. For an alias Django's own pool is an error.
            self.plain.close_pool()

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

    get_autocommit = transactions.get_autocommit
    commit, rollback = transactions.commit, transactions.rollback

    def set_autocommit(
        self, autocommit: bool, force_begin_transaction_with_broken_autocommit: bool = False
    ) -> None:
        if not fork.noticed[0]:
            fork.notice()
        transactions.set_autocommit(self, autocommit, force_begin_transaction_with_broken_autocommit)

    operation = transactions.operation

    def schema_editor(self, *args: Any, **kwargs: Any) -> Any:
        editor = super().schema_editor(*args, **kwargs)
        editor.__class__ = mixed(schema.PooledSchemaEditor, type(editor))
        return editor

    # -- cursors and statements ---------------------------------------------------------------------

    def _cursor(self, name: str | None = None) -> Any:
        if not fork.noticed[0]:
            fork.notice()
        try:
            self._depth += 1
            try:
                made = super()._cursor(name)
                cls = type(made)
                # As _pooled_cursor(), without a call.
                made.__class__ = _cursor_classes.get(cls) or _pooled_cursor(cls)
                lease = self._lease
                if lease is not None:
                    cursor = made.cursor
                    # Django's backend for MySQL, for example, has a wrapper of its own around the driver's.
                    cursor = getattr(cursor, "cursor", cursor)
                    if lease.by_transaction:
                        transactions.cursor_opened(self, lease, cursor, name is not None)
                    else:
                        lease.cursors.add(weakref.ref(cursor, lease.cursors.discard))
            finally:
                self._depth -= 1
            return made
        except BaseException:
            transactions.release_if_free(self)
            raise

    before_statement, after_statement = statements.before, statements.after
    statement_failed, lose = errors.statement_failed, errors.lose
    cursor_closed = transactions.cursor_closed

    # -- for its owner ------------------------------------------------------------------------------

    pin_session = statements.pin_session
    give_back, abandon, inherit = checkin.give_back, checkin.abandon, checkin.inherit
    fill, retire = opening.fill, reuse.retire

    def __copy__(self) -> PooledWrapper:
        """A shallow copy, as Django's own tests make, has no part in the lease."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        copied.__dict__.pop("wrap_database_errors", None)
        copied._depth = 0
        if self._lease is not None:
            copied._lease = copied.connection = None
        if self._lent:
            copied.execute_wrappers = self.execute_wrappers[:]
            copied.take_back()
        copied._resting = None
        return copied

    def break_cycles(self) -> None:
        """Nothing of it is left to the garbage collector.

        With hundreds of requests waiting, collecting a wrapper costs more than making it. Code that still
        refers to this one can go on using it.
        """
        reuse.drop_helpers(self, reuse.HELPERS)
        self.__dict__.pop("wrap_database_errors", None)


def make_pooled(wrapper: Any) -> None:
    """Pool one that Django has made, with what it has made for itself already."""
    cls = wrapper.__class__
    wrapper.__class__ = made = pooled(cls)
    if made.features_class is not cls.features_class and type(wrapper.features) is cls.features_class:
        wrapper.features.__class__ = made.features_class


@functools.cache
def pooled(cls: type[Any]) -> type[Any]:
    """The pooled subclass of a backend's DatabaseWrapper, which goes by the same name.

    The class itself where it has no driver that can be pooled.
    """
    driver = drivers.find(getattr(cls, "Database", None))
    if driver is None or issubclass(cls, PooledWrapper):
        return cls
    backend_class, features = cls, cls.features_class
    for mixin in reversed(driver.mixins):
        cls = mixed(mixin, cls)
    made = mixed(PooledWrapper, cls)
    made.backend_class = backend_class
    if isinstance(getattr(features, "max_query_params", None), property):
        # SQLite's, since Django 6.0.
        made.features_class = mixed(schema.PooledFeatures, features)
    receivers.plug_in()
    return made


def _pooled_cursor(cls: type[Any]) -> type[Any]:
    return _cursor_classes.setdefault(cls, mixed(PooledCursor, cls))


def mixed(mixin: type[Any], cls: type[Any]) -> type[Any]:
    """The subclass of ``cls`` with ``mixin`` before it, always the same one. It goes by ``cls``'s name."""
    subclass = _subclasses.get((mixin, cls))
    if subclass is None:
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        # Another thread may be making it, too. Wrappers of one class have one pool.
        subclass = _subclasses.setdefault((mixin, cls), type(cls.__name__, (mixin, cls), names))
    return subclass
