"""A connection of PyMySQL's through which sessions are ended."""

from __future__ import annotations

import copy
import time
from functools import partial
from typing import Any

import pymysql
from pymysql.constants import CLIENT

from django_db_pooling.drivers import ending
from django_db_pooling.drivers.base import Socketed
from django_db_pooling.process.deadline import SHORTEST


def kill(driver: Socketed, connection: Any, sessions: list[ending.Session], seconds: float) -> None:
    """As the user of this connection, from another one to where it led (I/O)."""
    until = time.monotonic() + seconds
    killer = _like(connection, seconds)
    try:
        killer.connect()
        killer._read_timeout = left = max(until - time.monotonic(), SHORTEST)
        ending.by_kill(partial(_rows, killer), sessions, left)
        # The next one comes when the server has seen the end of this one.
        driver.close(killer, left)
    finally:
        driver.drop(killer)


def _like(connection: Any, seconds: float) -> Any:
    """With the same settings, TLS included, but not open yet. ``seconds``: for each step."""
    made = copy.copy(getattr(connection, "__wrapped__", connection))
    made._sock = made._rfile = made._result = None
    made.connect_timeout = made._read_timeout = made._write_timeout = seconds
    made.client_flag &= ~CLIENT.CONNECT_WITH_DB
    made.db = made.init_command = made.sql_mode = made.autocommit_mode = None
    return made


def _rows(connection: Any, sql: str) -> Any:
    with connection.cursor(pymysql.cursors.Cursor) as cursor:
        cursor.execute(sql)
        return cursor.fetchall()
