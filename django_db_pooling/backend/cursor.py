"""Django's cursors, which also report to their wrapper each statement and their close."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Protocol

from django_db_pooling.pool.slot import Slot
from django_db_pooling.process import fork


class Statements(Protocol):
    """What a cursor needs of its wrapper.

    ``after_statement``: also when it has failed, since it may have been executed in part.
    ``statement_failed``: with every exception that leaves the driver. ``cursor_closed``: of those that have
    an ``OpenCursor``. ``cursor_collected``: called by finalizers, anywhere.
    """

    Database: Any

    @property
    def slot(self) -> Slot | None: ...

    def before_statement(self, sql: Any) -> None: ...
    def after_statement(self, sql: Any) -> None: ...
    def statement_failed(self, error: BaseException) -> None: ...
    def cursor_closed(self, cursor: OpenCursor) -> None: ...
    def cursor_collected(self, cursor: OpenCursor) -> None: ...


if TYPE_CHECKING:
    from django.db.backends.utils import CursorWrapper

    class Base(CursorWrapper):
        """What the stubs don't know."""

        def _execute(self, sql: Any, *arguments: Any) -> Any: ...
        def _executemany(self, sql: Any, *arguments: Any) -> Any: ...
else:
    Base = object


class OpenCursor(weakref.ref[Any]):
    """A cursor that is neither closed nor collected. In transaction scope it holds its connection."""

    __slots__ = ("named", "wrapper")

    wrapper: weakref.ref[Statements]
    # It has a portal on the server.
    named: bool


def collected(cursor: Any) -> None:
    """The callback of an OpenCursor, which the garbage collector calls in any thread, at any point."""
    wrapper = cursor.wrapper()
    if wrapper is not None:
        wrapper.cursor_collected(cursor)


class PooledCursor(Base):
    """Mixed in before the class of a backend's cursor wrapper."""

    db: Statements
    # In transaction scope, until it is closed.
    opened: OpenCursor | None = None

    def _execute(self, sql: Any, *arguments: Any) -> Any:
        db = self.db
        db.before_statement(sql)
        try:
            return super()._execute(sql, *arguments)
        finally:
            db.after_statement(sql)

    def _executemany(self, sql: Any, *arguments: Any) -> Any:
        db = self.db
        db.before_statement(sql)
        try:
            return super()._executemany(sql, *arguments)
        finally:
            db.after_statement(sql)

    def callproc(self, procname: str, *arguments: Any, **kwargs: Any) -> Any:
        self.db.before_statement("CALL")
        try:
            return super().callproc(procname, *arguments, **kwargs)
        finally:
            self.db.after_statement("CALL")

    def close(self) -> None:
        if not fork.noticed[0]:
            fork.notice()
        db = self.db
        try:
            self.cursor.close()
        except BaseException as error:
            # Without a connection there is nothing left to close.
            if db.slot is None and isinstance(error, db.Database.Error):
                return
            # Django's error handling doesn't cover close(), which may talk to the server.
            db.statement_failed(error)
            raise
        finally:
            opened, self.opened = self.opened, None
            if opened is not None:
                db.cursor_closed(opened)
