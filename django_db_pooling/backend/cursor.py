"""Django's cursors, which also report to their wrapper each statement and their close."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from django_db_pooling.backend.lease import Lease
from django_db_pooling.process import fork


class Statements(Protocol):
    """What a cursor needs of its wrapper.

    ``after_statement``: also when it has failed, since it may have been executed in part.
    ``statement_failed``: with every exception that leaves the driver.
    """

    Database: Any
    _lease: Lease | None

    def before_statement(self, sql: Any) -> None: ...
    def after_statement(self, sql: Any) -> None: ...
    def statement_failed(self, error: BaseException) -> None: ...
    def cursor_closed(self, cursor: Any) -> None: ...


if TYPE_CHECKING:
    from django.db.backends.utils import CursorWrapper

    class Base(CursorWrapper):
        """What the stubs don't know."""

        def _execute(self, sql: Any, *arguments: Any) -> Any: ...
        def _executemany(self, sql: Any, *arguments: Any) -> Any: ...
else:
    Base = object


class PooledCursor(Base):
    """Mixed in before the class of a backend's cursor wrapper."""

    db: Statements

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

    def __iter__(self) -> Any:
        if not fork.noticed[0]:
            fork.notice()
        return super().__iter__()

    def close(self) -> None:
        if not fork.noticed[0]:
            fork.notice()
        db = self.db
        try:
            self.cursor.close()
        except BaseException as error:
            # Without a connection there is nothing left to close.
            if db._lease is None and isinstance(error, db.Database.Error):
                return
            # Django's error handling doesn't cover close(), which may talk to the server.
            db.statement_failed(error)
            raise
        finally:
            lease = db._lease
            if lease is not None and lease.by_transaction:
                db.cursor_closed(self.cursor)
