"""Wrappers used again: that of a thread or greenlet that has ended serves the next one.

Making one costs about a third of all that a pool costs per request. A next thread may find what the same
thread would have found if it had lived on, and nothing that others may still use. So a wrapper is used again
only if nobody else refers to it, nor to an object of its own that refers back to it.
"""

from __future__ import annotations

import sys
import threading
import weakref
from operator import attrgetter
from typing import Any

from django_db_pooling.backend.lease import State
from django_db_pooling.database_pool import Identity

# Of each identity.
MAX_SPARE = 64
# Where a reference count says who refers to an object.
IS_POSSIBLE = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()

# Those that refer back to it.
_own_objects = attrgetter(
    "client", "creation", "features", "introspection", "ops", "validation", "wrap_database_errors"
)
# What would be left of its last use, and how it is without that.
_state = attrgetter(
    "connection",
    "_lease",
    "_resting",
    "_deadline",
    "_vacant",
    "_depth",
    "in_atomic_block",
    "needs_rollback",
    "force_debug_cursor",
    "execute_wrappers",
    "run_on_commit",
    "run_commit_hooks_on_set_autocommit_on",
    "_thread_sharing_count",
)
_AT_REST: tuple[Any, ...] = (None, None, None, None, State.FREE, 0, False, False, False, [], [], False, 0)


def retire(wrapper: Any) -> None:
    """Keep it for the next thread: its own has ended. Called by finalizers, anywhere.

    It isn't looked at now, since what ends a thread may still refer to it.
    """
    identity = wrapper._identity
    if (
        IS_POSSIBLE
        and identity is not None
        and identity.is_of_alias
        and wrapper.settings_dict is identity.settings_dict
        and len(identity.spare_wrappers) < MAX_SPARE
    ):
        identity.spare_wrappers.append(wrapper)
    elif not wrapper.is_shared:
        wrapper.break_cycles()


def take(identity: Identity) -> Any:
    """One that is as untouched as a new one; None: there is none."""
    spare = identity.spare_wrappers
    if spare and identity.references is None:
        identity.references = _untouched(identity)
    while spare:
        try:
            wrapper = spare.pop()
        except IndexError:
            # Another thread was faster.
            break
        if _references(wrapper) == identity.references and _state(wrapper) == _AT_REST:
            wrapper._thread_ident = threading.get_ident()
            if wrapper.queries_log:
                wrapper.queries_log.clear()
            return wrapper
        wrapper.break_cycles()
        # Here is the last reference.
        del wrapper
    return None


def _references(wrapper: Any) -> tuple[int, ...]:
    """How many references there are to it, and to its own objects that refer to it."""
    count = sys.getrefcount
    return (count(wrapper), weakref.getweakrefcount(wrapper), *map(count, _own_objects(wrapper)))


def _untouched(identity: Identity) -> tuple[int, ...]:
    """What ``_references`` says of a wrapper that nobody else refers to: found out, not written down."""
    wrapper = identity.new_wrapper()
    # What is made at its first use is made now.
    _own_objects(wrapper)
    references = _references(wrapper)
    wrapper.break_cycles()
    return references
