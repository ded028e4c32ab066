"""Signals that pooled connections send, and who receives Django's."""

from __future__ import annotations

import weakref
from typing import Any

from django.db.backends.signals import connection_created
from django.dispatch import Signal

# At each checkout, before the statement that needs the connection. Set here what belongs to a request,
# a tenant or a role. ``sender``: the backend's class, as Django's connection_created has it. ``connection``:
# the wrapper. What receivers execute doesn't make the session dirty, since the next checkout overwrites it.
connection_checked_out = Signal()


def foreign_receivers(sender: type[Any] | None = None) -> list[Any]:
    """Of connection_created, without Django's own. ``sender``: only those that hear of this class."""
    senders = (id(None), id(sender))
    found = []
    for (_, receives_from), ref, *_ in connection_created.receivers:
        receiver = ref() if isinstance(ref, weakref.ReferenceType) else ref
        module = getattr(receiver, "__module__", None) or "django"
        if module.partition(".")[0] != "django" and (sender is None or receives_from in senders):
            found.append(receiver)
    return found
