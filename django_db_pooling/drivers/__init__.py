"""What differs by database driver. One file for each; ``find`` chooses by the DB-API module.

To add one: subclass ``base.Driver``, and name its module here.
"""

from __future__ import annotations

import functools
from importlib import import_module
from typing import Any

from django_db_pooling.drivers.base import Driver

# DB-API module as a backend names it in DatabaseWrapper.Database -> our module for it.
_MODULES = {
    "pymysql": "drivers.pymysql",
    "MySQLdb": "drivers.mysqlclient",
    "psycopg": "drivers.psycopg3",
    "psycopg2": "drivers.psycopg2",
    "sqlite3": "drivers.sqlite",
    # A class: what python-ldap has of a DB-API module is made up by django-ldapdb.
    "ldapdb": "ldap.backend",
}


@functools.cache
def find(database: Any) -> Driver | None:
    """The driver for a backend's ``Database`` module; None for an unknown module, or without one.

    PyMySQL is found also after ``install_as_MySQLdb()``: the module's ``__name__`` stays the same.
    """
    if database is None:
        return None
    name = database.__module__ if isinstance(database, type) else database.__name__
    package = name.partition(".")[0]
    module = _MODULES.get(package)
    if module is None:
        return None
    driver: Driver = import_module(f"django_db_pooling.{module}").DRIVER
    return driver
