"""A pool whose connections are bound as different users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django_db_pooling.ldap.driver import DRIVER
from django_db_pooling.log import redact
from django_db_pooling.pool.limits import Limits
from django_db_pooling.pool.pool import Pool
from django_db_pooling.pool.slot import Slot
from django_db_pooling.pool.stats import Closed


class DirectoryPool(Pool):
    """Connections to one directory. The affinity of each is its identity: no other identity gets it.

    None is bound anew for another user. At the cap an idle one of another identity makes room.
    """

    error_name = "MaxConnectionReachedError"

    def __init__(self, name: str, limits: Limits) -> None:
        super().__init__(redact(name), limits, DRIVER)

    def reopened(self, slot: Slot) -> None:
        """Its connection was broken and is replaced."""
        self.found_broken()
        self.counts.broken += 1
        self.counts.closed[Closed.BROKEN] += 1
        self.opened(slot)

    def purge(self, is_concerned: Callable[[Any], bool]) -> None:
        """Close idle connections of these identities now, those in use as they come back."""
        for slot in self.slots.all():
            if is_concerned(slot.affinity):
                slot.broken = True
        self.close_idle(is_concerned)
