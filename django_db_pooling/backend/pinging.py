"""Statement pings (``POOL["PING"]``): idle connections are asked something, for what is between us and the
server and counts statements, not the probes of TCP's keepalive.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any

from django_db_pooling.backend import checkin
from django_db_pooling.backend.base import ANSWER_TIMEOUT, LeaseHolder
from django_db_pooling.backend.checkout import discard_broken
from django_db_pooling.backend.lease import Lease
from django_db_pooling.database_pool import DatabasePool, Identity
from django_db_pooling.pool.slot import Slot
from django_db_pooling.process.deadline import Deadline
from django_db_pooling.process.tasks import Tasks
from django_db_pooling.registry import registry


class Pinger:
    """Looked after by ``process.upkeep``, in a thread of its own: a silent server keeps nothing else."""

    name = "questions to idle connections"

    def __init__(self) -> None:
        self.tasks = Tasks()

    @property
    def is_needed(self) -> bool:
        return any(pool.limits.ping is not None for pool in registry.pools())

    def every_second(self) -> bool:
        for pool in registry.pools():
            if pool.limits.ping is not None:
                name = f"asking idle connections of the pool {pool.name!r}"
                self.tasks.run(name, partial(_ask_idle, pool, pool.limits.ping))
        return self.is_needed

    def forked(self) -> None:
        return

    def end(self) -> None:
        return


def _ask_idle(pool: DatabasePool, seconds: float) -> None:
    """Each for whom it is time, one after another: of this hub, others can't be asked from here. While
    somebody waits for a connection nobody is asked.
    """
    for slot in pool.slots.idle():
        if pool.queue.waiters or pool.closing:
            return
        if slot.hub is not pool.driver.hub() or not _is_due(slot, seconds) or not pool.slots.claim(slot):
            continue
        # It may have been in use since the look.
        if not _is_due(slot, seconds):
            pool.slots.put_back(slot)
        elif not _ask(pool, slot):
            # All others are asked before they are used. Those of a silent server would take as long.
            return


def _is_due(slot: Slot, seconds: float) -> bool:
    return time.monotonic() - max(slot.returned_at, slot.validated_at) >= seconds


def _ask(pool: DatabasePool, slot: Slot) -> bool:
    """Whether it answers (I/O); then it is idle as before, else it is gone."""
    affinity: Any = slot.affinity
    identity: Identity = affinity[1]
    wrapper: LeaseHolder = identity.new_wrapper()
    try:
        wrapper._identity = identity
        slot.holder, slot.taken_at = "the housekeeper", time.monotonic()
        # For drivers that wait without a limit: see Maintenance.
        slot.answer_until = slot.taken_at + ANSWER_TIMEOUT
        # Of a question it gets a half.
        wrapper._deadline = Deadline(2 * ANSWER_TIMEOUT)
        lease = Lease(slot, identity, by_transaction=False)
        wrapper.adopt(lease)
        if not _is_usable(wrapper, lease):
            discard_broken(wrapper)
            return False
        wrapper.end_lease()
        wrapper.connection = None
        _give_back(pool, slot)
        return True
    except BaseException:
        wrapper.discard()
        raise


def _is_usable(wrapper: LeaseHolder, lease: Lease) -> bool:
    """Where the settings turn autocommit off, the question may have begun a transaction."""
    return bool(
        (not lease.slot.maybe_in_transaction or checkin.roll_back(wrapper, lease))
        and wrapper.is_usable()
        and (wrapper.autocommit or checkin.roll_back(wrapper, lease))
    )


def _give_back(pool: DatabasePool, slot: Slot) -> None:
    """As it was, so that it is closed when nobody has used it for long."""
    slot.maybe_in_transaction, slot.answer_until = False, math.inf
    slot.holder, slot.taken_at = None, 0.0
    pool.slots.restore(slot)
    if pool.queue.waiters:
        pool.queue.match()


pinger = Pinger()
