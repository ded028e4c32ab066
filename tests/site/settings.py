"""Django's settings, all from SITE_* variables; importing this touches neither a database nor gevent."""

from __future__ import annotations

import json
import os
import sys
from typing import Any
from urllib.parse import urlsplit

_url = urlsplit(os.environ["SITE_DATABASE_URL"])
_driver = os.environ.get("SITE_DRIVER") or {"mysql": "pymysql", "postgres": "psycopg"}[_url.scheme]

if _driver == "pymysql":
    import pymysql

    pymysql.install_as_MySQLdb()
if _driver == "psycopg2":
    # Django prefers psycopg 3 where both are installed.
    sys.modules["psycopg"] = None  # type: ignore[assignment]

ENGINES = {"mysql": "django.db.backends.mysql", "postgres": "django.db.backends.postgresql"}

_default: dict[str, Any] = {
    "ENGINE": ENGINES[_url.scheme],
    "NAME": _url.path.lstrip("/"),
    "USER": _url.username,
    "PASSWORD": _url.password,
    "HOST": _url.hostname,
    "PORT": str(_url.port),
    "CONN_MAX_AGE": json.loads(os.environ.get("SITE_CONN_MAX_AGE", "0")),
}
if "SITE_POOL" in os.environ:
    _default["POOL"] = json.loads(os.environ["SITE_POOL"])

DATABASES = {"default": _default}
if "SITE_SECOND" in os.environ:
    # Another database of the same server's.
    DATABASES["second"] = _default | {"NAME": os.environ["SITE_SECOND"]}
INSTALLED_APPS = ["tests.site", *os.environ.get("SITE_APPS", "").split()]
# It sets Content-Length, so that a client knows a whole answer from half of one.
MIDDLEWARE = [*os.environ.get("SITE_MIDDLEWARE", "").split(), "django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "tests.site.urls"
ALLOWED_HOSTS = ["*"]
SECRET_KEY = "only for tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
if "SITE_STATUS_DIR" in os.environ:
    # The site's own, whatever else runs on this machine.
    DB_POOL_STATUS_DIR = os.environ["SITE_STATUS_DIR"]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"of process": {"format": "%(process)d %(name)s %(levelname)s %(message)s"}},
    "handlers": {"log": {"class": "logging.StreamHandler", "formatter": "of process"}},
    "loggers": {"django_db_pooling": {"handlers": ["log"], "level": "WARNING"}},
}
