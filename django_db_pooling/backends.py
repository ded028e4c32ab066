"""Backends that keep what is true of the moment among the settings, or of the session in the wrapper."""

from __future__ import annotations

from typing import Any


def kept_in_settings(cls: type[Any]) -> frozenset[str]:
    """Keys of the settings that wrappers of this class change as they go.

    django-tenants and its kin write the tenant's schema into the alias's own dict at each change.
    """
    return frozenset({"SCHEMA"} if hasattr(cls, "set_settings_schema") else ())


def remembers(cls: type[Any]) -> bool:
    """Whether wrappers of this class have a ``close()`` of a backend that is none of Django's.

    django-tenants has: it notes what it has told the session, and forgets it when the connection is closed.
    """
    backends = (base for base in cls.__mro__ if not base.__module__.startswith("django_db_pooling."))
    closing = next(base for base in backends if "close" in vars(base))
    return not closing.__module__.startswith("django.db.backends.")
