"""What Django's tests need besides Django. Without it tests would be skipped, the same ones both times."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from tests.conformance.databases import DATABASES

MODULES = {"tblib", "psycopg_pool"}


class Missing(Exception):
    """Something is not installed; the message says what, and how to get it."""


def check(databases: Iterable[str]) -> None:
    """Raises Missing."""
    missing = []
    modules = set(MODULES)
    for name in databases:
        modules.add(DATABASES[name].driver)
        server = DATABASES[name].server
        if server is not None and server.find() is None:
            missing.append(server.__name__)
    missing += sorted(module for module in modules if importlib.util.find_spec(module) is None)
    if missing:
        raise Missing(f"not installed: {', '.join(missing)}; `make conformance` as root installs all of it")
