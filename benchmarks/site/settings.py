"""Django's settings, from BENCHMARK_* variables; the same for all variants except for what each changes."""

from __future__ import annotations

import datetime
import os
from typing import Any
from urllib.parse import unquote, urlsplit

from django.utils import timezone

from benchmarks.variants import BY_NAME, LDAP, MYSQL, POSTGRESQL

VARIANT = BY_NAME[os.environ["BENCHMARK_VARIANT"]]
SIZE = int(os.environ["BENCHMARK_POOL_SIZE"])

_url = urlsplit(os.environ["BENCHMARK_DATABASE_URL"])
_database = {"mysql": MYSQL, "postgres": POSTGRESQL, "ldap": LDAP, "ldaps": LDAP}[_url.scheme]

if _database == MYSQL:
    import pymysql

    pymysql.install_as_MySQLdb()
elif _database == LDAP and not hasattr(timezone, "utc"):
    # django-ldapdb imports it; Django 5 hasn't got it any more.
    timezone.utc = datetime.UTC  # type: ignore[attr-defined]

# Where the server has no TLS, PyMySQL 1.2 would try it and load the system's certificates at each connect.
_options = {MYSQL: {"ssl_disabled": True}, POSTGRESQL: {"sslmode": "disable"}, LDAP: {}}[_database]
if os.environ.get("BENCHMARK_TLS"):
    _options = {}
_changes = VARIANT.settings(_database, SIZE)

_default: dict[str, Any] = {
    "ENGINE": "ldapdb.backends.ldap" if _database == LDAP else f"django.db.backends.{_database}",
    "NAME": _url.path.lstrip("/"),
    "USER": _url.username,
    "PASSWORD": _url.password,
    "HOST": _url.hostname,
    "PORT": str(_url.port),
    **_changes,
    "OPTIONS": {**_options, **_changes.get("OPTIONS", {})},
}

if _database == LDAP:
    _default["NAME"] = f"{_url.scheme}://{_url.hostname}:{_url.port}"
    _default["USER"] = unquote(_url.username or "")
# The entry of the directory that contains its people.
PEOPLE = unquote(_url.path.lstrip("/"))

DATABASES = {"default": _default}
INSTALLED_APPS = ["benchmarks.site"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "benchmarks.site.urls"
ALLOWED_HOSTS = ["*"]
SECRET_KEY = "only for benchmarks"
USE_TZ = True
# Answers with 500 are counted, not logged.
LOGGING = {"version": 1, "disable_existing_loggers": False, "loggers": {"django": {"level": "CRITICAL"}}}
