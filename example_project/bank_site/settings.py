"""Settings of the example site. Everything that differs by place comes from the environment.

DATABASE_URL names the database; without it SQLite. With LDAP_URL the site shows people of a directory too:

    LDAP_URL      ldap://host:389/dc=example,dc=org, the server and the name that all entries are below
    LDAP_BIND_DN  whom the site binds as, and LDAP_PASSWORD; without it as nobody
"""

from __future__ import annotations

import os
from datetime import UTC
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import dj_database_url
import django.utils.timezone

from bank_site.mysql_driver import choose_mysql_driver

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("SECRET_KEY", "insecure-key-for-development-only")
DEBUG = os.environ.get("DEBUG") == "1"
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]", *os.environ.get("ALLOWED_HOSTS", "").split()]

INSTALLED_APPS = [
    "bank",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]

if os.environ.get("POOLING") != "off":
    # Pools in manage.py too, and the page of pools.
    INSTALLED_APPS.append("django_db_pooling")
    if find_spec("prometheus_client") is not None:
        # On /metrics.
        DB_POOL_METRICS = ["prometheus"]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "bank_site.urls"
WSGI_APPLICATION = "bank_site.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]


def _database() -> dict[str, Any]:
    age = os.environ.get("CONN_MAX_AGE", "0")
    config: dict[str, Any] = dict(
        dj_database_url.parse(
            os.environ.get("DATABASE_URL") or f"sqlite:///{BASE_DIR / 'db.sqlite3'}",
            conn_max_age=None if age == "none" else int(age),
            conn_health_checks=os.environ.get("CONN_HEALTH_CHECKS") == "1",
        )
    )
    options = config.setdefault("OPTIONS", {})
    if config["ENGINE"].endswith(".mysql"):
        choose_mysql_driver()
        options.setdefault("charset", "utf8mb4")
    elif config["ENGINE"].endswith(".sqlite3"):
        # A statement that waits for SQLite's lock blocks every greenlet of the process, so not for long.
        options.setdefault("timeout", 10)
        # SQLite has no row locks: a transfer takes the write lock before it reads the balances.
        options.setdefault("transaction_mode", "IMMEDIATE")
    return config


DATABASES = {"default": _database()}

if os.environ.get("LDAP_URL"):
    # django-ldapdb wants the name that Django 5 has dropped.
    django.utils.timezone.utc = UTC
    _ldap_url = urlsplit(os.environ["LDAP_URL"])
    LDAP_BASE_DN = unquote(_ldap_url.path.strip("/"))
    DATABASES["directory"] = {
        "ENGINE": "ldapdb.backends.ldap",
        "NAME": f"{_ldap_url.scheme}://{_ldap_url.netloc}",
        "USER": os.environ.get("LDAP_BIND_DN", ""),
        "PASSWORD": os.environ.get("LDAP_PASSWORD", ""),
    }
    DATABASE_ROUTERS = ["ldapdb.router.Router"]
    INSTALLED_APPS.insert(1, "people")

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# In a cookie, so that a page shows a message without a query for a session.
MESSAGE_STORAGE = "django.contrib.messages.storage.cookie.CookieStorage"

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False

STATIC_URL = "/static/"
