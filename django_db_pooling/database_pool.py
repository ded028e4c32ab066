"""The pool of one alias, and the identities of its connections: which of them fit which wrapper."""

from __future__ import annotations

import math
import sys
import threading
import time
from functools import cached_property
from typing import Any

from django.conf import settings
from django.db import connections

from django_db_pooling import conf, host_limit
from django_db_pooling.drivers.base import Driver
from django_db_pooling.log import redact
from django_db_pooling.pool.limits import Limits
from django_db_pooling.pool.pool import Pool
from django_db_pooling.pool.slot import Slot
from django_db_pooling.process.tasks import Tasks

# While a server is the wrong one, connections are replaced once in so many seconds.
REPLACING = 1.0


# Of a connection: the hub in which it works, and its identity.
Affinity = tuple[object, "Identity"]


class Identity:
    """All that decides which server, database, user and session settings a connection is for.

    A pool has one object at a time for the same: compare with ``is``. It contains the password and never
    prints it.
    """

    def __init__(self, pool: DatabasePool, wrapper: Any) -> None:
        self.pool = pool
        self.wrapper_class = type(wrapper)
        # Django changes the alias's own dict in place for a test database. That of a copy() is another one.
        of_alias: Any = connections.settings.get(pool.name)
        self.is_of_alias = of_alias == wrapper.settings_dict
        self.settings_dict: dict[str, Any] = of_alias if self.is_of_alias else wrapper.settings_dict
        self._lasting = copied(pool.lasting(self.settings_dict))
        self._time_zones = _time_zones()
        self._affinity: Affinity = (None, self)
        # Nobody gets a connection of this one any more.
        self.retired = False
        # Of its connections, whenever nobody uses them.
        self.autocommit = bool(self.settings_dict["AUTOCOMMIT"])
        self.scope = conf.scope(self.settings_dict, pool.driver.scope)
        self.reset_mode = conf.reset_mode(self.settings_dict)
        proxy = conf.proxy(self.settings_dict)
        # Whether others may get the server's session after each transaction.
        self.is_shared = proxy == conf.TRANSACTION
        # Whether the server is asked and told what the user has not: a proxy may take it amiss.
        self.asks_server = proxy is None
        self.credentials = conf.credentials(self.settings_dict)
        self.has_label = conf.label(self.settings_dict)
        self.backend_remembers = _is_foreign(self.wrapper_class, "close")
        # Whether a reset undoes no part of what the backend sets up when it connects.
        self.resettable = not (
            self.reset_mode == "close"
            or _is_foreign(self.wrapper_class, "connect")
            or _is_foreign(self.wrapper_class, "get_new_connection")
        )
        # Of time.monotonic(): the last one has failed.
        self.no_reset_before = -math.inf
        # What Django found out about the server, by attribute of its wrapper.
        self.learned: dict[str, Any] = {}
        # How many references there are to a connection to which only its wrapper refers; 0: not known.
        self.references = 0
        # The server closes a connection by itself when it has been idle for so long (seconds).
        self.server_timeout = math.inf
        # Whether a server has taken writes, as far as one has told. It may come back without that.
        self.takes_writes: bool | None = None
        # Wrappers whose thread has ended, for the next one; and what an untouched one is like.
        self.spare_wrappers: list[Any] = []
        self.untouched: Any = None

    def __repr__(self) -> str:
        # Either may be a URL.
        name, host = (redact(repr(self._lasting.get(key))) for key in ("NAME", "HOST"))
        return f"<Identity of {name} at {host}>"

    def fits(self, wrapper: Any) -> bool:
        """Whether this is the one of the wrapper's settings as they are at this moment.

        Asked at each checkout. What changes in other settings than DATABASES, ``is_outdated`` finds.
        """
        settings_dict = wrapper.settings_dict
        if self.pool.own_keys:
            settings_dict = self.pool.lasting(settings_dict)
        return bool(
            not self.retired and wrapper.__class__ is self.wrapper_class and self._lasting == settings_dict
        )

    @cached_property
    def initial(self) -> dict[str, Any]:
        """What a new wrapper has of what Django finds out about the server."""
        new = self.new_wrapper().__dict__
        return {name: new[name] for name in self.pool.driver.learned if name in new}

    def affinity(self) -> Affinity:
        """Of the connections that a caller in this hub can use."""
        hub, affinity = self.pool.driver.hub(), self._affinity
        if affinity[0] is not hub:
            affinity = self._affinity = (hub, self)
        return affinity

    def is_outdated(self) -> bool:
        """Whether the settings that it was made for have changed since."""
        return (
            self._time_zones != _time_zones()
            or self._lasting != self.pool.lasting(self.settings_dict)
            or (self.is_of_alias and connections.settings.get(self.pool.name) is not self.settings_dict)
        )

    def forget_own_keys(self) -> None:
        """The pool has found more of them."""
        self._lasting = self.pool.lasting(self._lasting)

    def new_wrapper(self) -> Any:
        """A wrapper for these settings, which no thread has."""
        return self.wrapper_class(self.settings_dict, self.pool.name)

    def learn(self, wrapper: Any) -> dict[str, Any]:
        """What is known now. Called with a wrapper that has just opened a connection."""
        count = sys.getrefcount(wrapper.connection)
        self.references = min(count, self.references or count)
        known, driver = wrapper.__dict__, self.pool.driver
        learned = {name: known[name] for name in driver.learned if name in known}
        if learned != self.learned:
            # Wrappers see by the object whether they know it already.
            self.learned = learned
        if self.asks_server and self.server_timeout == math.inf:
            seconds = driver.server_timeout(wrapper.connection)
            # Some time before the server closes it: that may happen just when somebody checks it out.
            self.server_timeout = max(seconds - 2, seconds / 2)
        if not self.takes_writes:
            takes_writes = driver.takes_writes(wrapper.connection)
            if takes_writes is not None:
                self.takes_writes = takes_writes
        return self.learned


class DatabasePool(Pool):
    """The pool of an alias. The affinity of a connection is its hub and its identity."""

    error_name = "PoolTimeout"
    remedy = (
        "If requests wait for other services while they hold a connection, call pooling.release() before "
        "that, or set SCOPE to 'transaction'; otherwise raise MAX_OUTSTANDING."
    )

    # With what the wrapper asks of it, besides what a pool does.
    driver: Driver

    def __init__(self, wrapper: Any, driver: Driver) -> None:
        alias = wrapper.alias
        # Those of the alias, or of the first wrapper where there is no such alias.
        self.settings_dict: dict[str, Any] = connections.settings.get(alias) or wrapper.settings_dict
        self.database, self.scope = conf.place(self.settings_dict), conf.scope(self.settings_dict)
        if self.scope == conf.TRANSACTION:
            self.remedy = (
                "Don't wait for other services inside of atomic(), or while a cursor is open; otherwise "
                "raise MAX_OUTSTANDING."
            )
        self.was_configured = alias in connections.settings
        super().__init__(alias, conf.limits_for(alias, self.settings_dict), driver)
        # Its own: others may have tasks of the same name.
        self.tasks = Tasks()
        # Keys of the settings into which the backend itself writes, a token or a schema: they don't decide
        # which connection fits.
        self.own_keys = _written_at_creation(wrapper)
        # The newest first. Replaced, never changed, so that readers need no lock.
        self.identities: tuple[Identity, ...] = ()
        # That of the alias's own settings, as far as it is known.
        self.current: Identity | None = None
        # When a server was last found to be the wrong one.
        self._replaced_at = -math.inf
        self._lock = threading.Lock()
        host_limit.follow(alias, self.settings_dict, self.slots)

    def resize(self, limits: Limits) -> None:
        super().resize(limits)
        host_limit.follow(self.name, self.settings_dict, self.slots)

    def server_of(self, affinity: Any) -> object:
        """That of a copy with other settings may be away, and the alias's own not."""
        return affinity[1]

    def lasting(self, settings_dict: dict[str, Any]) -> dict[str, Any]:
        """What of the settings decides which connection fits."""
        if not self.own_keys:
            return settings_dict
        return {key: value for key, value in settings_dict.items() if key not in self.own_keys}

    def identity_of(self, wrapper: Any) -> Identity:
        """That of the wrapper's settings as they are at this moment. Those of outdated settings end here.

        Raises ImproperlyConfigured.
        """
        found = self._known(wrapper)
        if found is not None:
            return found
        with self._lock:
            found = self._known(wrapper)
            if found is not None:
                return found
            found = Identity(self, wrapper)
            if found.is_of_alias:
                limits = conf.limits_for(self.name, found.settings_dict)
            self.identities = (found, *self.identities)
        if found.is_of_alias:
            self.current = found
            self.settings_dict = found.settings_dict
            self.resize(limits)
        self.retire_outdated()
        return found

    def _known(self, wrapper: Any) -> Identity | None:
        for identity in self.identities:
            if identity.fits(wrapper):
                return identity
        return None

    def share_learned(self, wrapper: Any) -> None:
        """Give a wrapper that hasn't connected yet its identity, and what is known of the server."""
        identity = self._known(wrapper)
        if identity is not None:
            wrapper.learn(identity.learned)
            wrapper._identity = identity

    def found_own_keys(self, keys: set[str]) -> None:
        """The backend has written them while it connected."""
        with self._lock:
            if not keys <= self.own_keys:
                self.own_keys |= keys
                for identity in self.identities:
                    identity.forget_own_keys()

    def retire_outdated(self) -> None:
        """Close the idle connections of identities that the settings no longer have."""
        outdated = [identity for identity in self.identities if identity.is_outdated()]
        if outdated:
            self.journal.note("retired")
            self._retire(outdated)

    def retire_unused(self) -> None:
        """Forget the identities of copies that have no connection any more, nor wait for one."""
        users: list[Any] = [*self.slots.all(), *list(self.queue.waiters)]
        used = {user.affinity[1] for user in users}
        self._retire([one for one in self.identities if not one.is_of_alias and one not in used])

    def retire_all(self) -> None:
        self._retire(list(self.identities))

    def _retire(self, identities: list[Identity]) -> None:
        for identity in identities:
            identity.retired = True
            identity.spare_wrappers.clear()
            self.growth.forget(identity)
            if identity is self.current:
                self.current = None
        with self._lock:
            self.identities = tuple(one for one in self.identities if not one.retired)
        # Those, too, that have come back since the last one was retired: from a rest, for example.
        self.close_idle(_is_retired)

    def wrong_server(self, slot: Slot, error: object) -> None:
        """A statement on this connection says so: replace all that were opened before now. No I/O."""
        now = time.monotonic()
        if slot.generation == self.slots.generation and now - self._replaced_at >= REPLACING:
            self._replaced_at = now
            self.replace_all()
            self.journal.note("wrong_server", error=redact(error))

    def replace_all(self) -> None:
        """Every connection, when it is returned or would be used next. No I/O."""
        self.slots.generation += 1

    def recycle(self) -> None:
        for identity in self.identities:
            identity.learned = {}
            identity.no_reset_before = -math.inf
        super().recycle()


def _is_retired(affinity: Any) -> bool:
    _, identity = affinity
    return bool(identity.retired)


def _time_zones() -> Any:
    """What connections get from settings other than DATABASES; a string where time zones are not used."""
    return settings.USE_TZ or settings.TIME_ZONE


def copied(value: Any) -> Any:
    """Containers copied, so that later changes don't reach the copy; values are left as they are."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(copied(item) for item in value) if type(value) in (list, tuple, set) else value
    return value


class _Noting(dict[str, Any]):
    """Settings that note which keys are written."""

    def __init__(self, settings_dict: dict[str, Any]) -> None:
        super().__init__(copied(settings_dict))
        self.written: set[str] = set()

    def __setitem__(self, key: str, value: Any) -> None:
        self.written.add(key)
        super().__setitem__(key, value)

    def update(self, *changes: Any, **more: Any) -> None:
        self.written.update(dict(*changes, **more))
        super().update(*changes, **more)


def _written_at_creation(wrapper: Any) -> frozenset[str]:
    """The keys that a wrapper of this class writes into its settings when it is made.

    django-tenants' do, and again at each change of the tenant.
    """
    noting = _Noting(wrapper.settings_dict)
    type(wrapper)(noting, wrapper.alias)
    return frozenset(noting.written)


def _is_foreign(cls: type[Any], method: str) -> bool:
    """Whether this method of a wrapper's is one of a backend that is none of Django's.

    django-tenants has a ``close()``: it remembers what it has set in the session, and forgets it when the
    connection is closed.
    """
    backends = (base for base in cls.__mro__ if not base.__module__.startswith("django_db_pooling.backend."))
    module = next(base for base in backends if method in vars(base)).__module__
    return not module.startswith(("django.", "django_db_pooling."))
