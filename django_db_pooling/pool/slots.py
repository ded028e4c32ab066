"""One place in a pool: the lease that its holder owns."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django_db_pooling.ldap.attempt import Attempt
    from django_db_pooling.pool.pool import Pool


class Rest:
    """A slot with a changed session, left to its user for a while. Whoever takes this out of the pool has the
    slot; who comes later finds none, also where the same slot rests again, for somebody else.
    """

    __slots__ = ("affinity", "pool", "since", "slot")

    def __init__(self, slot: Slot, since: float) -> None:
        # None once it is over: a user that doesn't come back must not keep the slot alive.
        self.slot: Slot | None = slot
        self.affinity, self.pool = slot.affinity, slot.pool
        self.since = since


class Slot:
    """A place for one physical connection, in use by whoever holds this object.

    The pool counts its slots but refers to those in use only weakly. So a holder that is gone
    without a word, with whatever exception, gives its place back: the slot goes with its last
    reference, and its connection is dropped.
    """

    __slots__ = (
        "__weakref__",
        "attempt",
        "beyond_reset",
        "connection",
        "dirty",
        "expires_at",
        "generation",
        "holder",
        "affinity",
        "locks",
        "number",
        "opened_at",
        "overdue",
        "pool",
        "validated_at",
        "returned_at",
        "taken_at",
        "maybe_in_transaction",
        "broken",
    )

    def __init__(self, pool: Pool, number: int, generation: int, affinity: object) -> None:
        self.number = number
        self.generation = generation
        # Where the connection can be used: gevent's hub of the native thread that opens it.
        self.affinity = affinity
        # None until the holder has opened one, and after it is closed.
        self.connection: Any = None
        # What is opening one in another thread. Until that ends the slot can't be free.
        self.attempt: Attempt | None = None
        # Seconds of time.monotonic(), as all times here.
        self.opened_at = 0.0
        self.expires_at = 0.0
        self.validated_at = 0.0
        self.returned_at = 0.0
        self.taken_at = 0.0
        # Its session was changed: it is made as new before somebody else has it.
        self.dirty = False
        # It was changed in a way that no reset undoes: then the connection is closed.
        self.beyond_reset = False
        # How many locks its session holds, as far as the texts of its statements tell.
        self.locks = 0
        # A transaction may be open in it: its next taker rolls back.
        self.maybe_in_transaction = False
        # Its user has seen that the server doesn't answer.
        self.broken = False
        # Whatever str() says who has it.
        self.holder: object = None
        # That, once it was told that it is held for too long.
        self.overdue: str | None = None
        self.pool = pool

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # When the interpreter ends, the system closes what is open. And __init__ may not have run.
        pool = getattr(self, "pool", None)
        if pool is not None and not is_finalizing():
            pool.reclaim(self)
