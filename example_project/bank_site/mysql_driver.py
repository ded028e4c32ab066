"""Which driver Django's MySQL backend loads: mysqlclient, or PyMySQL under its name."""

from __future__ import annotations

import os
from importlib.util import find_spec


def choose_mysql_driver() -> None:
    """PyMySQL where mysqlclient is missing or MYSQL_DRIVER=pymysql.

    gevent switches greenlets while pure Python waits for the server, not while a C library does.

    Django 6.1 wants `MySQLdb.version_info` at 2.2.1 or newer. PyMySQL 1.2 claims 2.2.8, so nothing has to be
    overridden.
    """
    if os.environ.get("MYSQL_DRIVER") == "pymysql" or find_spec("MySQLdb") is None:
        import pymysql

        pymysql.install_as_MySQLdb()
