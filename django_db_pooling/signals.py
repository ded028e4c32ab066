"""Signals that pooled connections send."""

from __future__ import annotations

from django.dispatch import Signal

# At each checkout, before the statement that needs the connection. Set here what belongs to a request,
# a tenant or a role. ``sender``: the wrapper's class. ``connection``: the wrapper. What
# receivers execute doesn't make the session dirty, since the next checkout overwrites it.
connection_checked_out = Signal()
