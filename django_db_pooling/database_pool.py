"""A pool of one database: what decides which connection fits, and what was learned of the server."""

from __future__ import annotations

import math
from typing import Any

from django.conf import settings
from django.db import connections

from django_db_pooling import conf
from django_db_pooling.drivers.base import Driver
from django_db_pooling.log import redact
from django_db_pooling.pool.pool import Pool
from django_db_pooling.process.tasks import Tasks


class Identity(tuple[Any, ...]):
    """All that decides what a connection is for; contains the password and never prints it."""

    __slots__ = ()

    def __repr__(self) -> str:
        # Either may be a URL.
        name, host = (redact(repr(self[-1].get(key))) for key in ("NAME", "HOST"))
        return f"<Identity of {name} at {host}>"


class DatabasePool(Pool):
    """A pool, for connections of one identity, opened with Django's wrapper of that alias."""

    # With what the wrapper asks of it, besides what a pool does.
    driver: Driver

    def __init__(self, wrapper: Any, driver: Driver) -> None:
        super().__init__(wrapper.alias, conf.limits_for(wrapper.alias, wrapper.settings_dict), driver)
        # Its own: an alias may have several pools, of which one fails.
        self.tasks = Tasks()
        self.wrapper_class = type(wrapper)
        self._changing_keys = _changing_keys(self.wrapper_class)
        self.backend_remembers = _remembers_session(self.wrapper_class)
        self.identity = Identity(
            (self.wrapper_class, _time_zones(), _copied(self._lasting(wrapper.settings_dict)))
        )
        # Django changes the alias's own dict in place for a test database. That of a copy() is
        # another one.
        settings_dict: Any = connections.settings.get(wrapper.alias)
        is_shared = settings_dict == wrapper.settings_dict
        self.settings_dict: dict[str, Any] = settings_dict if is_shared else wrapper.settings_dict
        self.scope = conf.scope(wrapper.settings_dict, driver.scope)
        self.reset_mode = conf.reset_mode(wrapper.settings_dict)
        # What Django found out about the server, by attribute of its wrapper.
        self.learned: dict[str, Any] = {}
        # After so many idle seconds the server closes a connection.
        self._server_timeout = math.inf

    def serves(self, wrapper: Any) -> bool:
        """Whether its connections fit the wrapper's settings as they are at this moment."""
        # Asked at each checkout, so without a call where it can be.
        settings_dict = self._lasting(wrapper.settings_dict) if self._changing_keys else wrapper.settings_dict
        cls, zones, lasting = self.identity
        return bool(
            wrapper.__class__ is cls
            and zones == (settings.USE_TZ or settings.TIME_ZONE)
            and lasting == settings_dict
        )

    def is_outdated(self) -> bool:
        """Whether the settings that it was made for have changed since."""
        return self.identity != (self.wrapper_class, _time_zones(), self._lasting(self.settings_dict))

    def _lasting(self, settings_dict: dict[str, Any]) -> dict[str, Any]:
        """What of the settings decides which connection fits."""
        if not self._changing_keys:
            return settings_dict
        return {key: value for key, value in settings_dict.items() if key not in self._changing_keys}

    def new_wrapper(self) -> Any:
        """A wrapper for the settings of this pool, which no thread has."""
        return self.wrapper_class(self.settings_dict, self.name)

    def learn(self, wrapper: Any) -> None:
        """Called with a wrapper that has just opened a connection."""
        known = wrapper.__dict__
        self.learned = {name: known[name] for name in self.driver.learned if name in known}
        if self._server_timeout == math.inf:
            seconds = self.driver.server_timeout(wrapper.connection)
            # Some time before the server closes it: that may happen just when somebody checks it out.
            self._server_timeout = max(seconds - 2, seconds / 2)
        wrapper.slot.server_timeout = self._server_timeout

    def recycle(self) -> None:
        self.learned = {}
        super().recycle()


def _time_zones() -> Any:
    """What connections get from settings other than DATABASES; a string where time zones are not used."""
    return settings.USE_TZ or settings.TIME_ZONE


def _copied(value: Any) -> Any:
    """Containers copied, so that later changes don't reach the copy; values are left as they are."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(_copied(item) for item in value) if type(value) in (list, tuple, set) else value
    return value


def _changing_keys(cls: type[Any]) -> frozenset[str]:
    """Keys of the settings that wrappers of this class change as they go.

    django-tenants and its kin write the tenant's schema into the alias's own dict at each change.
    """
    return frozenset({"SCHEMA"} if hasattr(cls, "set_settings_schema") else ())


def _remembers_session(cls: type[Any]) -> bool:
    """Whether wrappers of this class have a ``close()`` of a backend that is none of Django's.

    django-tenants has: it remembers what it has set in the session, and forgets it when the connection is
    closed.
    """
    backends = (base for base in cls.__mro__ if not base.__module__.startswith("django_db_pooling."))
    closing = next(base for base in backends if "close" in vars(base))
    return not closing.__module__.startswith("django.db.backends.")
