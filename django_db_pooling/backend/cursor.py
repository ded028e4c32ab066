"""Django's cursors, which also tell their wrapper what they execute and when they are closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django_db_pooling.process import fork

if TYPE_CHECKING:
    from django.db.backends.utils import CursorWrapper

    from django_db_pooling.backend.transactions import OpenCursor
    from django_db_pooling.backend.wrapper import PooledWrapper

    class Base(CursorWrapper):
        """What the stubs don't know."""

        def _execute(self, sql: Any, *arguments: Any) -> Any: ...
        def _executemany(self, sql: Any, *arguments: Any) -> Any: ...
else:
    Base = object


class PooledCursor(Base):
    """Mixed in before the class of a backend's cursor wrapper.

    A statement is told after the fact, also when it has failed: it may have run in part.
    """

    db: PooledWrapper
    # Where transaction scope applies, and until it is closed.
    opened: OpenCursor | None = None

    def _execute(self, sql: Any, *arguments: Any) -> Any:
        if not fork.noticed[0]:
            fork.notice()
        db = self.db
        if db._transaction_scoped and not db._executed:
            db.refuse_to_ask(sql)
        try:
            return super()._execute(sql, *arguments)
        finally:
            db.executed(sql)

    def _executemany(self, sql: Any, *arguments: Any) -> Any:
        if not fork.noticed[0]:
            fork.notice()
        db = self.db
        if db._transaction_scoped and not db._executed:
            db.refuse_to_ask(sql)
        try:
            return super()._executemany(sql, *arguments)
        finally:
            db.executed(sql)

    def callproc(self, procname: str, *arguments: Any, **kwargs: Any) -> Any:
        if not fork.noticed[0]:
            fork.notice()
        try:
            return super().callproc(procname, *arguments, **kwargs)
        finally:
            self.db.executed("CALL")

    def close(self) -> None:
        if not fork.noticed[0]:
            fork.notice()
        db = self.db
        try:
            self.cursor.close()
        except BaseException as error:
            # Of one whose connection was given up nothing is left to close.
            if db.slot is None and isinstance(error, db.Database.Error):
                return
            # It may talk to the server, and Django doesn't look at what that raises.
            db.lose_if_broken(error)
            raise
        finally:
            opened, self.opened = self.opened, None
            if opened is not None:
                db.cursor_closed(opened)
