"""What django-ldapdb's DatabaseWrapper lacks: Django's way to connect and close, errors, whole operations."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import ldap
from django.db import Error as DjangoError
from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from django_db_pooling.ldap.connecting import SERVER_AWAY, close, connect
from django_db_pooling.ldap.connector import Connector
from django_db_pooling.ldap.driver import LDAP
from django_db_pooling.ldap.state import REPEATS
from django_db_pooling.ldap.turns import give_way, let_reader_go_first
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.waiter import Waiter
from django_db_pooling.process.deadline import Deadline

if TYPE_CHECKING:

    class Pooled(Protocol):
        """What is used here of the pooled wrapper, which comes before this class."""

        @property
        def slot(self) -> Slot | None: ...
        def operation(self, deadline: Deadline | None = None) -> AbstractContextManager[None]: ...
        def lose(self) -> None: ...

    class Backend(BaseDatabaseWrapper, Pooled):
        """What is used here of django-ldapdb's wrapper, which comes after it."""

        page_size: int

        def search_s(self, *arguments: Any, **keywords: Any) -> Iterator[Any]: ...
        def add_s(self, *arguments: Any, **keywords: Any) -> Any: ...
        def modify_s(self, *arguments: Any, **keywords: Any) -> Any: ...
        def delete_s(self, *arguments: Any, **keywords: Any) -> Any: ...
        def rename_s(self, *arguments: Any, **keywords: Any) -> Any: ...

else:
    Backend = object


@functools.cache
def _also_operational_error(error: type[Exception]) -> type[Exception]:
    """A subclass of Django's OperationalError and of python-ldap's class: code may catch either."""
    return type(error.__name__, (OperationalError, error), {"__module__": error.__module__})


class DirectoryWrapper(Backend):
    """Mixed in between the pooled wrapper and django-ldapdb's."""

    def translate(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        """Errors of the connection become Django's, too; what the server says of data stays python-ldap's."""
        if not issubclass(exc_type, ldap.LDAPError) or issubclass(exc_type, DjangoError):
            return
        if issubclass(exc_type, SERVER_AWAY) or self.connection is None:
            self.errors_occurred = True
            if issubclass(exc_type, ldap.TIMEOUT) and self.connection is not None:
                # The late answer would come before that of the next request.
                self.lose()
            raise _also_operational_error(exc_type)(*exc_value.args).with_traceback(traceback) from exc_value

    # Django's own methods again: django-ldapdb's bind at each use and close without _close().

    def ensure_connection(self) -> None:
        BaseDatabaseWrapper.ensure_connection(self)
        if self.slot is not None and self.connection.is_dirty:
            # In request scope: code of the user's has bound it as another user. Bind as the settings say.
            params = self.get_connection_params()
            self._limit_answers()
            with self.wrap_database_errors:
                self.connection.simple_bind_s(params["bind_dn"], params["bind_pw"])

    def close(self) -> None:
        BaseDatabaseWrapper.close(self)

    def _close(self) -> None:
        if self.connection is not None:
            close(self.connection)

    def is_usable(self) -> bool:
        return bool(self.connection.is_usable(None))

    def get_new_connection(self, conn_params: dict[str, Any]) -> Connector:
        options = conn_params["options"]
        connection = connect(
            Connector,
            conn_params["uri"],
            conn_params["bind_dn"] or None,
            conn_params["bind_pw"],
            start_tls=bool(conn_params["tls"]),
            options={option: value for option, value in options.items() if isinstance(option, int)},
            timeout=int(options.get("query_timeout", -1)),
            seconds=conn_params.get("seconds"),
        )
        if "page_size" in options:
            self.page_size = int(options["page_size"])
        return connection

    def search_s(self, *arguments: Any, **keywords: Any) -> Iterator[Any]:
        """django-ldapdb's, but complete before the first entry is handed out: between two entries the
        connection may be used for something else, or be given back.

        Where it turns out to be broken, the search is made again on a fresh one.
        """
        found, waiter = self._search(super().search_s, arguments, keywords)
        if waiter is not None and self.slot is None:
            give_way(waiter)
        # It refers to what it has got.
        waiter = None
        yield from found

    def _search(
        self, search: Callable[..., Any], arguments: Any, keywords: Any
    ) -> tuple[list[Any], Waiter | None]:
        """What is found, and who waited for the connection then."""
        began = time.monotonic()
        if self.slot is None:
            let_reader_go_first()
        deadline: Deadline | None = None
        for _ in range(REPEATS):
            with self.operation(deadline):
                self._limit_answers(deadline)
                slot = self.slot
                timeout = None if slot is None else slot.pool.limits.timeout
                try:
                    with self.wrap_database_errors:
                        found = list(search(*arguments, **keywords))
                    return found, None if slot is None else slot.pool.queue.head()
                except ldap.SERVER_DOWN:
                    if self.connection is not None:
                        raise
            deadline = Deadline(timeout, began)
        with self.operation(deadline), self.wrap_database_errors:
            self._limit_answers(deadline)
            return list(search(*arguments, **keywords)), None

    def add_s(self, *arguments: Any, **keywords: Any) -> Any:
        with self.operation(), self.wrap_database_errors:
            self._limit_answers()
            return super().add_s(*arguments, **keywords)

    def modify_s(self, *arguments: Any, **keywords: Any) -> Any:
        with self.operation(), self.wrap_database_errors:
            self._limit_answers()
            return super().modify_s(*arguments, **keywords)

    def delete_s(self, *arguments: Any, **keywords: Any) -> Any:
        with self.operation(), self.wrap_database_errors:
            self._limit_answers()
            return super().delete_s(*arguments, **keywords)

    def rename_s(self, *arguments: Any, **keywords: Any) -> Any:
        with self.operation(), self.wrap_database_errors:
            self._limit_answers()
            return super().rename_s(*arguments, **keywords)

    def _limit_answers(self, deadline: Deadline | None = None) -> None:
        """The server must answer by this deadline; None: within the pool's timeout."""
        if self.slot is not None:
            deadline = deadline or Deadline(self.slot.pool.limits.timeout)
            self.connection.answer_timeout = deadline.left()


class BackendDriver(LDAP):
    """The driver of django-ldapdb's aliases."""

    mixins = (DirectoryWrapper,)


DRIVER = BackendDriver()
