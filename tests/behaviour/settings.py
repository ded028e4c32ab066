"""Django's settings for one driver."""

from __future__ import annotations

import os
import sys
from urllib.parse import urlsplit

DRIVER = os.environ["POOLING_DRIVER"]

if DRIVER == "pymysql":
    import pymysql

    pymysql.install_as_MySQLdb()
if DRIVER == "psycopg2":
    # Django prefers psycopg 3 where both are installed.
    sys.modules["psycopg"] = None  # type: ignore[assignment]

ENGINES = {
    "pymysql": "django.db.backends.mysql",
    "mysqlclient": "django.db.backends.mysql",
    "psycopg": "django.db.backends.postgresql",
    "psycopg2": "django.db.backends.postgresql",
    "sqlite3": "django.db.backends.sqlite3",
}

_url = urlsplit(os.environ["POOLING_DATABASE_URL"])

DATABASES = {
    "default": {
        "ENGINE": ENGINES[DRIVER],
        "NAME": _url.path if DRIVER == "sqlite3" else _url.path.lstrip("/"),
        "USER": _url.username or "",
        "PASSWORD": _url.password or "",
        "HOST": _url.hostname or "",
        "PORT": str(_url.port or ""),
    }
}
if DRIVER == "sqlite3":
    DATABASES["default"]["OPTIONS"] = {"timeout": 20}  # type: ignore[assignment]

INSTALLED_APPS = ["tests.behaviour"]
SECRET_KEY = "only for tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "tests.behaviour.urls"
ALLOWED_HOSTS = ["*"]
