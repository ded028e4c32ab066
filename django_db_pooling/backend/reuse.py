"""Wrappers used again: that of a thread or greenlet that has ended serves the next one.

Making one costs about a third of all that a pool costs per request. A next thread may find what the same
thread would have found if it had lived on, and nothing that others may still use. So a wrapper is used again
only if nobody else refers to it or to an object of its own, and if it is as it was when it was made.
"""

from __future__ import annotations

import sys
import threading
import weakref
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any

from django.utils.functional import cached_property

from django_db_pooling.backend.base import LeaseHolder
from django_db_pooling.database_pool import Identity

# Of each identity.
MAX_SPARE = 64
# Where a reference count says who refers to an object.
IS_POSSIBLE = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()

# They refer back to their wrapper.
HELPERS = ("client", "creation", "features", "introspection", "ops", "validation")
# Who has one of these sees what the wrapper's next user does.
_own_objects = itemgetter(*HELPERS, "wrap_database_errors", "queries_log", "execute_wrappers")
# What Django's wrappers have and each checkout or ``take`` sets, or what means nothing without a connection.
_VARYING = {
    *HELPERS,
    "_thread_ident",
    "_thread_sharing_lock",
    "autocommit",
    "close_at",
    "errors_occurred",
    "health_check_done",
    "health_check_enabled",
    "queries_log",
    "savepoint_state",
}
# What they get by use, besides what is cached.
_BY_USE = {"_named_cursor_idx", "wrap_database_errors"}
# What this package adds; ``_identity`` is as it was.
_OURS = ("_lease", "_vacant", "_resting", "_deadline", "_depth")
_ours = attrgetter(*_OURS)


def retire(wrapper: Any) -> None:
    """Keep it for the next thread: its own has ended. Called by finalizers, anywhere.

    Who refers to it isn't looked at now: what ends a thread may still do.
    """
    if wrapper.is_shared:
        # Others use it, too.
        return
    identity = wrapper._identity
    if (
        IS_POSSIBLE
        and identity is not None
        and identity is identity.pool.current
        and wrapper.settings_dict is identity.settings_dict
        and len(identity.spare_wrappers) < MAX_SPARE
    ):
        identity.spare_wrappers.append(wrapper)
    else:
        wrapper.break_cycles()


def take(identity: Identity) -> Any:
    """One that is as untouched as a new one; None: there is none."""
    spare = identity.spare_wrappers
    if spare and identity.untouched is None:
        identity.untouched = Untouched(identity)
    while spare:
        try:
            wrapper = spare.pop()
        except IndexError:
            # Another thread was faster.
            break
        attributes = vars(wrapper)
        references = _references(wrapper, attributes)
        if references == identity.untouched.references:
            if identity.untouched.is_like(wrapper, attributes):
                wrapper._thread_ident = threading.get_ident()
                if wrapper.queries_log:
                    wrapper.queries_log.clear()
                return wrapper
            wrapper.break_cycles()
        # Unless somebody still refers to it, who goes on using it as it is, these are the last references.
        del wrapper, attributes
    return None


class Untouched:
    """What a wrapper that nobody has used says of itself: found out, not written down."""

    def __init__(self, identity: Identity) -> None:
        wrapper = identity.new_wrapper()
        # It is made at its first use.
        with wrapper.wrap_database_errors:
            pass
        cls, attributes = type(wrapper), vars(wrapper)
        self.references = _references(wrapper, attributes)
        self._state_of = itemgetter(*(attributes.keys() - _VARYING - _BY_USE))
        self._state, self._ours = self._state_of(attributes), _ours(wrapper)
        cached = {name for one in cls.__mro__ for name, value in vars(one).items() if _caches(value)}
        learned = identity.pool.driver.learned
        self._names = frozenset({*attributes, *_BY_USE, *_OURS, "_identity", *learned, *cached})
        wrapper.break_cycles()

    def is_like(self, wrapper: LeaseHolder, attributes: dict[str, Any]) -> bool:
        return (
            self._state_of(attributes) == self._state
            and _ours(wrapper) == self._ours
            and self._names.issuperset(attributes)
        )


def _caches(value: object) -> bool:
    return isinstance(value, cached_property)


def _references(wrapper: Any, attributes: dict[str, Any]) -> tuple[object, ...] | None:
    """How many references there are to it and to its own objects, weak ones too, and of which types these
    are. None: it lacks one of them.
    """
    count, weak = sys.getrefcount, weakref.getweakrefcount
    try:
        objects = _own_objects(attributes)
    except KeyError:
        return None
    counts = map(count, objects), map(weak, objects), map(type, objects)
    return (count(wrapper), weak(wrapper), count(attributes), *chain(*counts))
