"""A pool whose connections are bound as different users."""

from __future__ import annotations

from collections.abc import Callable

from django_db_pooling.ldap.driver import LDAP
from django_db_pooling.ldap.identities import Identity
from django_db_pooling.log import redact
from django_db_pooling.pool.limits import Limits
from django_db_pooling.pool.pool import Pool
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.stats import Closed


class BoundDriver(LDAP):
    """The driver of a pool that opens connections of one identity by itself."""

    def __init__(self, own: Identity) -> None:
        self._own = own

    def hub(self) -> object:
        return self._own


class DirectoryPool(Pool):
    """Connections to one directory. The affinity of each is its identity: no other identity gets it.

    None is bound anew for another user. At the cap an idle one of another identity makes room.
    """

    def __init__(self, name: str, limits: Limits, own: Identity) -> None:
        super().__init__(redact(name), limits, BoundDriver(own))

    def reopened(self, slot: Slot) -> None:
        """Its connection was broken and is replaced."""
        self.found_broken()
        self.counts.broken += 1
        self.counts.closed[Closed.BROKEN] += 1
        self.opened(slot)

    def purge(self, is_concerned: Callable[[Identity], bool]) -> None:
        """Close idle connections of these identities now, those in use as they come back."""
        for slot in self.slots.all():
            if isinstance(slot.affinity, Identity) and is_concerned(slot.affinity):
                slot.broken = True
                if self.slots.claim(slot):
                    self.close(slot, Closed.RECYCLED)
