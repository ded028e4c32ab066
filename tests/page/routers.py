"""Where models live, as in a project with a second database for its own data."""

from __future__ import annotations

from typing import Any


class UsersInDefault:
    """Django's own apps have no tables in the other database."""

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        return None if db == "default" or app_label == "django_db_pooling" else False
