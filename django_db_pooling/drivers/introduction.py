"""PyMySQL that nobody has introduced to Django, which then advises to install another driver."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from django.db.utils import load_backend

from django_db_pooling import conf
from django_db_pooling.conf import Problem


def problems(databases: Mapping[str, Any]) -> list[Problem]:
    """``databases``: as in DATABASES, maybe not yet completed by Django."""
    if sys.modules.get("MySQLdb") or find_spec("MySQLdb") is not None or find_spec("pymysql") is None:
        return []
    return [
        Problem(
            "django_db_pooling.E010",
            f"The database {alias!r} needs MySQLdb, which isn't there. PyMySQL is, but it isn't introduced.",
            "Put these two lines at the top of settings.py: import pymysql; pymysql.install_as_MySQLdb()",
        )
        for alias, settings_dict in databases.items()
        if not conf.is_off(settings_dict) and _needs_mysqldb(settings_dict.get("ENGINE"))
    ]


def _needs_mysqldb(engine: Any) -> bool:
    try:
        load_backend(engine)
    except Exception as error:
        # Django's has the driver's ImportError as its cause.
        missing = error if isinstance(error, ImportError) else error.__cause__
        return isinstance(missing, ImportError) and missing.name == "MySQLdb"
    return False
