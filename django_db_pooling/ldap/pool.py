"""A pool of connections that are bound as different people."""

from __future__ import annotations

from collections.abc import Callable

from django_db_pooling.ldap.driver import LDAP
from django_db_pooling.ldap.identities import Identity
from django_db_pooling.log import redact
from django_db_pooling.pool.limits import Limits
from django_db_pooling.pool.pool import Pool
from django_db_pooling.pool.slots import Slot
from django_db_pooling.pool.stats import Closed


class ForOne(LDAP):
    """The driver of a pool whose own connections are bound as one identity."""

    def __init__(self, own: Identity) -> None:
        self._own = own

    def affinity(self) -> object:
        return self._own


class DirectoryPool(Pool):
    """Connections to one directory. The affinity of each is its identity: no other identity gets it.

    Nor are they bound anew. When there are as many as may be, an idle one of somebody else makes room.
    """

    def __init__(self, name: str, limits: Limits, own: Identity) -> None:
        super().__init__(redact(name), limits, ForOne(own))

    def reopened(self, slot: Slot) -> None:
        """Its connection was dead and is replaced."""
        self.found_broken()
        self.counts.broken += 1
        self.counts.closed[Closed.BROKEN] += 1
        self.opened(slot)

    def purge(self, concerns: Callable[[Identity], bool]) -> None:
        """Close what is idle and bound as one of these; those in use are closed as they come back."""
        for slot in self._living():
            if isinstance(slot.affinity, Identity) and concerns(slot.affinity):
                slot.broken = True
                if self._claim_idle(slot):
                    self.close(slot, Closed.RECYCLED)

    def _dismiss(self, slot: Slot, reason: Closed | None) -> None:
        # Any thread can say goodbye for any identity.
        self.close(slot, reason)
