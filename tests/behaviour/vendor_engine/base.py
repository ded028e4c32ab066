"""An engine with a vendor of its own over the database of the tests, as CockroachDB's and TiDB's are."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db.utils import load_backend

_engine: Any = load_backend(settings.DATABASES["default"]["ENGINE"])


class DatabaseWrapper(_engine.DatabaseWrapper):  # type: ignore[misc]
    vendor = "nobody else's"
