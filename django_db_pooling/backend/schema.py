"""What Django's own code does with ``connection.connection``: schema editors and features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django_db_pooling.backend import transactions
from django_db_pooling.backend.base import LeaseHolder

if TYPE_CHECKING:
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor

    class Editor(BaseDatabaseSchemaEditor):
        """What the stubs don't know."""

        atomic_migration: bool
        collect_sql: bool

    class Features:
        max_query_params: Any
else:
    Editor = Features = object


class PooledSchemaEditor(Editor):
    """Mixed in before a backend's schema editor: it keeps its connection to the end of its block."""

    connection: Any

    def __enter__(self) -> Any:
        wrapper: LeaseHolder = self.connection
        wrapper._depth += 1
        try:
            entered = super().__enter__()
            if self.atomic_migration or not self.collect_sql:
                # Operations may use the driver's object at once.
                wrapper.ensure_connection()
        except BaseException:
            _leave(wrapper)
            raise
        return entered

    def __exit__(self, *exc_info: Any) -> None:
        wrapper: LeaseHolder = self.connection
        try:
            super().__exit__(*exc_info)
        finally:
            _leave(wrapper)

    def quote_value(self, value: Any) -> Any:
        with transactions.operation(self.connection):
            return super().quote_value(value)


def _leave(wrapper: LeaseHolder) -> None:
    wrapper._depth -= 1
    transactions.release_if_free(wrapper)


class PooledFeatures(Features):
    """Mixed in before the features of a backend that asks the connection for this."""

    connection: Any

    @property
    def max_query_params(self) -> Any:
        with transactions.operation(self.connection):
            return super().max_query_params
