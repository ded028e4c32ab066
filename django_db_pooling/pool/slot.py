"""A place for one physical connection, and what is known about that connection."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, Protocol


class Reclaims(Protocol):
    """The pool, as its slots know it."""

    def reclaim(self, slot: Slot) -> None:
        """Called by a slot's finalizer, anywhere."""


class Pending(Protocol):
    """Something that opens a connection in another thread."""

    @property
    def is_over(self) -> bool: ...

    def when_over(self, function: Callable[[], None]) -> None: ...


class Slot:
    """A place for one physical connection, in use by whoever holds this object.

    The pool counts its slots but refers to those in use only weakly. So a holder that is gone without a
    checkin, by whatever exception, frees its slot: the finalizer has the connection dropped.
    """

    __slots__ = (
        "__weakref__",
        "affinity",
        "answer_until",
        "attempt",
        "beyond_reset",
        "broken",
        "connection",
        "cursors",
        "dirty",
        "execute_wrappers",
        "expires_at",
        "generation",
        "holder",
        "hub",
        "locks",
        "maybe_in_transaction",
        "number",
        "open_until",
        "opened_at",
        "overdue",
        "pool",
        "resettable",
        "returned_at",
        "server_timeout",
        "settings",
        "taken_at",
        "validated_at",
    )

    def __init__(self, pool: Reclaims, number: int, generation: int, affinity: object) -> None:
        self.number = number
        # None until the holder has opened one, and after it is closed.
        self.connection: Any = None
        # What is opening one in another thread. Until that ends the slot can't be free.
        self.attempt: Pending | None = None
        # Seconds of time.monotonic(), as all times here.
        self.returned_at = 0.0
        self.taken_at = 0.0
        # Whatever str() says who has it.
        self.holder: object = None
        # The holder's name, once it was logged that it holds this for too long.
        self.overdue: str | None = None
        self.renew(generation, affinity, None)
        # For its holder: the pool that this was checked out of, of whatever kind.
        self.pool: Any = pool

    def renew(self, generation: int, affinity: object, hub: object) -> None:
        """For a connection that is still to be opened."""
        # How often the pool had been recycled before.
        self.generation = generation
        # Who can use the connection: callers of an affinity that is equal.
        self.affinity = affinity
        # Where it works: see ``Driver.hub``.
        self.hub = hub
        # When its holder must have opened it.
        self.open_until = math.inf
        # When the server must have answered the housekeeping's question.
        self.answer_until = math.inf
        self.opened_at = 0.0
        self.expires_at = 0.0
        self.validated_at = 0.0
        # After so many idle seconds the server closes it.
        self.server_timeout = math.inf
        # Its session was changed: it is reset before somebody else has it.
        self.dirty = False
        # Closed cursors of earlier holders that may still refer to the connection: weak references to them.
        self.cursors: tuple[Any, ...] = ()
        # It was changed in a way that no reset undoes: then the connection is closed.
        self.beyond_reset = False
        # Whether a reset makes its session as it was when it was opened.
        self.resettable = True
        # Functions around each of its statements, for its holder.
        self.execute_wrappers: tuple[Any, ...] = ()
        # Of the driver's object, as they were when it was opened: see the driver's method of this name.
        self.settings: object = None
        # How many locks its session holds, as far as the texts of its statements show.
        self.locks = 0
        # A transaction may be open in it: its next holder rolls back.
        self.maybe_in_transaction = False
        # Its holder has found that it can't be used any more.
        self.broken = False

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # When the interpreter ends, the system closes what is open. And __init__ may not have run.
        pool: Reclaims | None = getattr(self, "pool", None)
        if pool is not None and not is_finalizing():
            pool.reclaim(self)
