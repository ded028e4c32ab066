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

from django_db_pooling import drivers
from django_db_pooling.backend.cursor import PooledCursor
from django_db_pooling.backend.transactions import Transactions
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


class PooledWrapper(Transactions):
    """Mixed in before a backend's DatabaseWrapper."""

    client, creation, features, introspection, ops, validation = (Helper() for _ in range(6))

    def __copy__(self) -> PooledWrapper:
        """A shallow copy, as Django's own tests make, has no part in the lease."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        copied.__dict__.pop("wrap_database_errors", None)
        if self._slot is not None:
            copied._slot = copied.connection = None
            copied._cursors = set()
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

    def create_cursor(self, name: str | None = None) -> Any:
        cursor = super().create_cursor(name)
        if self._slot is not None:
            self._cursors.add(weakref.ref(cursor, self._cursors.discard))
        return cursor

    def make_cursor(self, cursor: Any) -> Any:
        made = super().make_cursor(cursor)
        made.__class__ = mixed(PooledCursor, type(made))
        return made

    def make_debug_cursor(self, cursor: Any) -> Any:
        made = super().make_debug_cursor(cursor)
        made.__class__ = mixed(PooledCursor, type(made))
        return made

    @contextmanager
    def _nodb_cursor(self) -> Iterator[Any]:
        """Django's, for creating and dropping databases, which fails while others are connected to them."""
        for pool in registry.pools():
            # A replica in tests, for example, is an alias of the same database.
            if pool.name == self.alias or pool.settings_dict["NAME"] == self.settings_dict["NAME"]:
                pool.drain()
        with super()._nodb_cursor() as cursor:
            yield cursor


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
