"""Where is kept what takes long to get. Imports nothing but the standard library, see provision.sh."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """$DJANGO_DB_POOLING_CACHE, or where the user's caches are."""
    chosen = os.environ.get("DJANGO_DB_POOLING_CACHE")
    if chosen:
        return Path(chosen).resolve()
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "django_db_pooling"
