"""Those of the test site, with the admin, sessions in the database, and the page of pools."""

from __future__ import annotations

import json
import os

from tests.site.settings import *  # noqa: F403
from tests.site.settings import INSTALLED_APPS

SESSION_SAVE_EVERY_REQUEST = json.loads(os.environ.get("SITE_SAVE_SESSIONS", "false"))
INSTALLED_APPS = [
    "django_db_pooling",
    *INSTALLED_APPS,
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django_db_pooling.middleware.PoolTimeoutMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
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
ROOT_URLCONF = "tests.site.dashboard.urls"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STATIC_URL = "/static/"
# Numbers as they must not come into an SVG.
LANGUAGE_CODE = "de"
USE_I18N = True
