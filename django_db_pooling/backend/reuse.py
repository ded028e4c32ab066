"""Wrappers used again: that of a thread or greenlet that has ended serves the next one.

Making one costs about a third of all that a pool costs per request. A next thread may find what the same
thread would have found if it had lived on, and nothing that others may still use. So a wrapper is used again
only if nobody else refers to it or to an object of its own, and if it is as it was when it was made.
"""

from __future__ import annotations

import sys
import threading
import weakref
from operator import itemgetter
from typing import Any

from django.utils.functional import cached_property

from django_db_pooling.backend.base import LeaseHolder
from django_db_pooling.backend.lease import FREE
from django_db_pooling.database_pool import Identity

# Of each identity.
MAX_SPARE = 64
# Where a reference count says who refers to an object.
IS_POSSIBLE = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()

# What Django's wrappers make for themselves and what refers back to them. Few requests use these: they are
# made again for those that do, and needn't be looked at for the others.
RARE = ("client", "creation", "introspection", "validation")
HELPERS = (*RARE, "features", "ops")
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
_OURS = {
    "_lease",
    "_vacant",
    "_resting",
    "_deadline",
    "_depth",
    "_identity",
    "_known_names",
    "_learned",
    "_lent",
}


def retire(wrapper: Any) -> None:
    """Keep it for the next thread: its own has ended. Called by finalizers, anywhere.

    Who refers to it isn't looked at now: what ends a thread may still do.
    """
    if wrapper._thread_sharing_count > 0:
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
        attributes = wrapper.__dict__
        if not attributes.keys().isdisjoint(RARE):
            drop_helpers(wrapper, RARE)
        identity.spare_wrappers.append(wrapper)
    else:
        wrapper.break_cycles()


def drop_helpers(wrapper: Any, names: tuple[str, ...]) -> None:
    """Those of its own: what others have put in their place stays."""
    attributes = wrapper.__dict__
    for name in names:
        if type(attributes.get(name)) is getattr(wrapper, f"{name}_class", None):
            del attributes[name]


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
        attributes = wrapper.__dict__
        references = _references(wrapper, attributes)
        if references == identity.untouched.references:
            if identity.untouched.is_like(wrapper, attributes) and (
                identity.learned or _knows_nothing(wrapper, identity)
            ):
                wrapper._thread_ident = threading.get_ident()
                if identity.learned:
                    # Also what another thread has set instead.
                    attributes.update(identity.learned, _learned=identity.learned)
                if wrapper.queries_log:
                    wrapper.queries_log.clear()
                return wrapper
            wrapper.break_cycles()
        # Unless somebody still refers to it, who goes on using it as it is, these are the last references.
        del wrapper, attributes
    return None


def _knows_nothing(wrapper: LeaseHolder, identity: Identity) -> bool:
    """Of the server: while that is not known, as after ``recycle()``, nor does a new wrapper."""
    return not (wrapper._learned or wrapper.set_by_user(identity.pool.driver.learned))


class Untouched:
    """What a wrapper that nobody has used says of itself: found out, not written down."""

    def __init__(self, identity: Identity) -> None:
        wrapper = identity.new_wrapper()
        # It is made at its first use.
        with wrapper.wrap_database_errors:
            pass
        drop_helpers(wrapper, RARE)
        cls, attributes = type(wrapper), wrapper.__dict__
        self.references = _references(wrapper, attributes)
        self._state_of = itemgetter(*(attributes.keys() - _VARYING - _BY_USE - _OURS))
        self._state = self._state_of(attributes)
        cached = {name for one in cls.__mro__ for name, value in vars(one).items() if _caches(value)}
        learned = identity.pool.driver.learned
        self._names = frozenset({*attributes, *_BY_USE, *_OURS, *learned, *cached})
        wrapper.break_cycles()

    def is_like(self, wrapper: LeaseHolder, attributes: dict[str, Any]) -> bool:
        return (
            wrapper._lease is None
            and wrapper._vacant is FREE
            and wrapper._resting is None
            and wrapper._deadline is None
            and not wrapper._depth
            and self._state_of(attributes) == self._state
            and (
                wrapper._known_names == (len(attributes), next(reversed(attributes)))
                or self._knows_names(wrapper, attributes)
            )
        )

    def _knows_names(self, wrapper: LeaseHolder, attributes: dict[str, Any]) -> bool:
        """Whether it has no attribute of other code's. Those that it has are not looked at again: a new one
        would be the last.
        """
        wrapper._known_names = None
        if not self._names.issuperset(attributes):
            return False
        wrapper._known_names = (len(attributes), next(reversed(attributes)))
        return True


def _caches(value: object) -> bool:
    return isinstance(value, cached_property)


def _references(wrapper: Any, attributes: dict[str, Any]) -> tuple[object, ...] | None:
    """How many references there are to it and to its own objects, weak ones too, and of which types these
    are: who has one of them sees what the wrapper's next user does. None: it lacks one.
    """
    count, weak = sys.getrefcount, weakref.getweakrefcount
    try:
        features, ops = attributes["features"], attributes["ops"]
        errors, log = attributes["wrap_database_errors"], attributes["queries_log"]
    except KeyError:
        return None
    return (
        count(wrapper),
        count(attributes),
        count(attributes["execute_wrappers"]),
        count(features),
        count(ops),
        count(errors),
        count(log),
        weak(wrapper),
        weak(features),
        weak(ops),
        weak(errors),
        weak(log),
        type(features),
        type(ops),
        type(errors),
        type(log),
    )
