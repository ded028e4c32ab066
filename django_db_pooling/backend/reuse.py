"""Wrappers used again: that of a thread or greenlet that has ended serves the next one.

Making one costs about a third of all that a pool costs per request. A next thread may find what the same
thread would have found if it had lived on, and nothing that others may still use. So a wrapper is used again
only if nobody else refers to it, nor to an object of its own that refers back to it.
"""

from __future__ import annotations

import sys
import threading
import weakref
from typing import Any

from django_db_pooling.backend.lease import State
from django_db_pooling.database_pool import Identity

# Of each identity.
MAX_SPARE = 64
# Where a reference count says who refers to an object.
IS_POSSIBLE = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()


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
    while spare:
        try:
            wrapper = spare.pop()
        except IndexError:
            # Another thread was faster.
            break
        if _references(wrapper) == _untouched(identity) and _is_at_rest(wrapper):
            wrapper._thread_ident = threading.get_ident()
            if wrapper.queries_log:
                wrapper.queries_log.clear()
            return wrapper
        wrapper.break_cycles()
        # Here is the last reference.
        del wrapper
    return None


def _is_at_rest(wrapper: Any) -> bool:
    """Whether nothing of its last use is left."""
    return bool(
        wrapper.connection is wrapper._lease is wrapper._resting is wrapper._deadline is None
        and wrapper._vacant is State.FREE
        and not wrapper._depth.count
        and not (wrapper.in_atomic_block or wrapper.needs_rollback or wrapper.force_debug_cursor)
        and not (wrapper.execute_wrappers or wrapper.run_on_commit or wrapper._thread_sharing_count)
        and not wrapper.run_commit_hooks_on_set_autocommit_on
    )


def _references(wrapper: Any) -> tuple[int, ...] | None:
    """How many references there are to it, and to its own objects that refer to it."""
    attributes, count = wrapper.__dict__, sys.getrefcount
    try:
        return (
            count(wrapper),
            weakref.getweakrefcount(wrapper),
            count(attributes["client"]),
            count(attributes["creation"]),
            count(attributes["features"]),
            count(attributes["introspection"]),
            count(attributes["ops"]),
            count(attributes["validation"]),
            count(attributes["wrap_database_errors"]),
        )
    except KeyError:
        return None


def _untouched(identity: Identity) -> tuple[int, ...] | None:
    """What ``_references`` says of a wrapper that nobody else refers to: found out, not written down."""
    if identity.references is None:
        wrapper = identity.new_wrapper()
        with wrapper.wrap_database_errors:
            # It is made at its first use.
            pass
        identity.references = _references(wrapper)
        wrapper.break_cycles()
    return identity.references
