"""connection_created, as it is without a pool: from the backend's own class.

What its receivers put around the statements (``execute_wrappers``) belongs to the physical connection:
whichever wrapper has it checked out has them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from django.db.backends.signals import connection_created

from django_db_pooling.backend.base import LeaseHolder

Send = Callable[..., list[tuple[Any, Any]]]


@functools.cache
def plug_in() -> None:
    """From now on it is sent so. Called when a class of wrappers is made."""
    connection_created.send = functools.partial(_send, connection_created.send)  # type: ignore[method-assign]


def _send(send: Send, sender: Any, **named: Any) -> list[tuple[Any, Any]]:
    """``send``: what stood in its place. ``sender``: the class of the wrapper, which may be a pooled one."""
    wrapper = named.get("connection")
    sender = getattr(sender, "backend_class", sender)
    if not isinstance(wrapper, LeaseHolder) or wrapper._lease is None:
        return send(sender=sender, **named)
    slot, own = wrapper._lease.slot, wrapper.execute_wrappers
    try:
        # Many receivers add only what isn't there yet, and the wrapper may have it from elsewhere.
        wrapper.execute_wrappers = []
        sent = send(sender=sender, **named)
    finally:
        # Without a call before it, which a signal handler could interrupt.
        added, wrapper.execute_wrappers = wrapper.execute_wrappers, own
        slot.execute_wrappers = tuple(added)
        wrapper.lend(slot.execute_wrappers)
    return sent
