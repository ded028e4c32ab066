"""Those of a project with an admin. PAGE_APPS: other apps than its own; PAGE_DIRECTORY: a place for files."""

from __future__ import annotations

import os
from pathlib import Path

_place = Path(os.environ["PAGE_DIRECTORY"])

DATABASES = {
    alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": str(_place / f"{alias}.sqlite3")}
    for alias in ("default", "other")
}
DB_POOL_STATUS_DIR = str(_place)
ADMIN = "django.contrib.admin"
APPS = ["auth", "contenttypes", "sessions", "messages", "staticfiles"]
INSTALLED_APPS = os.environ.get("PAGE_APPS", "").split() or [
    ADMIN,
    *(f"django.contrib.{app}" for app in APPS),
    "django_db_pooling",
]
DATABASE_ROUTERS = os.environ.get("PAGE_ROUTERS", "").split()
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
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
if ADMIN in INSTALLED_APPS:
    ROOT_URLCONF = "tests.page.urls"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STATIC_URL = "/static/"
ALLOWED_HOSTS = ["*"]
SECRET_KEY = "only for tests"
USE_TZ = True
