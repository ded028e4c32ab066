"""The project's backend, which sets something once in each connection that it opens."""

from __future__ import annotations

from typing import Any

from django.db.utils import load_backend

from tests.behaviour.settings import DRIVER, ENGINES

Backend: Any = load_backend(ENGINES[DRIVER]).DatabaseWrapper

SETTING = (
    "SET @tenant = 5"
    if "mysql" in DRIVER
    else "SET my.tenant = '5'"
    if "psycopg" in DRIVER
    else "PRAGMA cache_size = 555"
)


class DatabaseWrapper(Backend):
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        connection = super().get_new_connection(conn_params)
        cursor = connection.cursor()
        cursor.execute(SETTING)
        cursor.close()
        connection.commit()
        return connection
