"""Ways for a view to read a row: the usual one, and some that are as cheap as possible."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import gevent
from django.db import connections, transaction
from gevent.queue import LifoQueue

from benchmarks.rows import TABLE
from benchmarks.site.models import Row

SQL = f"SELECT {TABLE}.id, {TABLE}.text FROM {TABLE} WHERE {TABLE}.id = %s LIMIT 21"


class Reader(Protocol):
    """``connection()`` gives a way to read once a connection is there."""

    def __init__(self, size: int) -> None: ...

    def read(self, key: int) -> str: ...

    def connection(self) -> AbstractContextManager[Callable[[int], str]]: ...


class ThroughORM:
    """Django's ORM on ``connections["default"]``, whatever that is."""

    def __init__(self, size: int) -> None:
        pass

    def read(self, key: int) -> str:
        return Row.objects.get(pk=key).text

    def read_in_transaction(self, key: int) -> str:
        with transaction.atomic():
            return self.read(key)

    @contextmanager
    def connection(self) -> Iterator[Callable[[int], str]]:
        connections["default"].ensure_connection()
        yield self.read


class ThroughDirectory(ThroughORM):
    """Django's ORM on django-ldapdb, which searches twice for one ``get()``."""

    def __init__(self, size: int) -> None:
        from benchmarks.site.directory import Person

        self._people = Person.objects

    def read(self, key: int) -> str:
        name: str = self._people.get(uid=f"user{key:03}").name
        return name


class Borrowed:
    """Up to ``size`` connections of any kind, opened at first need, each borrowed for one query."""

    def __init__(self, size: int, make: Callable[[], Any]) -> None:
        self._free: LifoQueue[Any] = LifoQueue()
        self._unmade = size
        self._make = make

    def take(self) -> Any:
        if self._unmade and not self._free.qsize():
            self._unmade -= 1
            return self._make()
        return self._free.get()

    def give(self, connection: Any) -> None:
        self._free.put(connection)


class BorrowedInOrder:
    """The same, but what is given back goes to whoever has waited longest, and nobody passes."""

    def __init__(self, size: int, make: Callable[[], Any]) -> None:
        self._free: list[Any] = []
        self._waiting: deque[Callable[[Any], object]] = deque()
        self._unmade = size
        self._make = make
        self._hub = gevent.get_hub()

    def take(self) -> Any:
        if self._free:
            return self._free.pop()
        if self._unmade:
            self._unmade -= 1
            return self._make()
        self._waiting.append(gevent.getcurrent().switch)
        return self._hub.switch()

    def give(self, connection: Any) -> None:
        if self._waiting:
            self._hub.loop.run_callback(self._waiting.popleft(), connection)
        else:
            self._free.append(connection)


class ThroughWrappers:
    """The ORM on one of a few wrappers that are always connected: no pool can be faster."""

    borrowed: Callable[[int, Callable[[], Any]], Any] = Borrowed

    def __init__(self, size: int) -> None:
        self._wrappers = type(self).borrowed(size, self._connected)

    @staticmethod
    def _connected() -> Any:
        wrapper: Any = connections.create_connection("default")
        wrapper.inc_thread_sharing()
        wrapper.ensure_connection()
        return wrapper

    def read(self, key: int) -> str:
        with self.connection() as read:
            return read(key)

    def read_in_transaction(self, key: int) -> str:
        with self.connection() as read, transaction.atomic():
            return read(key)

    @contextmanager
    def connection(self) -> Iterator[Callable[[int], str]]:
        connections["default"] = wrapper = self._wrappers.take()
        try:
            yield self._read
        finally:
            del connections["default"]
            self._wrappers.give(wrapper)

    @staticmethod
    def _read(key: int) -> str:
        return Row.objects.get(pk=key).text


class ThroughWrappersInOrder(ThroughWrappers):
    """No pool that serves waiters in order can be faster."""

    borrowed = BorrowedInOrder


class ThroughDriver:
    """The same SQL through the driver alone, without the cost of Django."""

    def __init__(self, size: int) -> None:
        self._connections = Borrowed(size, self._connected)

    @staticmethod
    def _connected() -> Any:
        wrapper: Any = connections.create_connection("default")
        wrapper.ensure_connection()
        return wrapper.connection

    def read(self, key: int) -> str:
        with self.connection() as read:
            return read(key)

    @contextmanager
    def connection(self) -> Iterator[Callable[[int], str]]:
        connection = self._connections.take()

        def read(key: int) -> str:
            with connection.cursor() as cursor:
                cursor.execute(SQL, [key])
                text: str = cursor.fetchone()[1]
            return text

        try:
            yield read
        finally:
            self._connections.give(connection)
