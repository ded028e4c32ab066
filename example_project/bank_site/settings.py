"""Settings of the example site. DATABASE_URL names the database; without it SQLite."""

import os
from importlib.util import find_spec
from pathlib import Path

import dj_database_url
import pymysql

# For MySQL: Django loads it in the place of mysqlclient, which would block all greenlets.
pymysql.install_as_MySQLdb()

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = os.environ.get("SECRET_KEY", "insecure-key-for-development-only")
DEBUG = os.environ.get("DEBUG") == "1"
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]", *os.environ.get("ALLOWED_HOSTS", "").split()]

# The whole integration: the app, and for each database the numbers in POOL below.
INSTALLED_APPS = ["bank", "django_db_pooling"]
INSTALLED_APPS += [
    f"django.contrib.{app}"
    for app in ("admin", "auth", "contenttypes", "sessions", "messages", "staticfiles")
]
if os.environ.get("POOLING") == "off":
    # To compare: each request opens a connection of its own.
    INSTALLED_APPS.remove("django_db_pooling")
elif find_spec("prometheus_client"):
    DB_POOL_METRICS = ["prometheus"]

DATABASES = {
    "default": dj_database_url.parse(os.environ.get("DATABASE_URL") or f"sqlite:///{BASE_DIR}/db.sqlite3")
}
DATABASES["default"]["POOL"] = {
    "SIZE": int(os.environ.get("POOL_SIZE", "10")),
    "MAX_OUTSTANDING": int(os.environ.get("POOL_MAX_OUTSTANDING", "20")),
}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # It has no row locks, so a transfer takes the write lock before it reads the balances.
    DATABASES["default"]["OPTIONS"] = {"timeout": 10, "transaction_mode": "IMMEDIATE"}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
# In a cookie, so that a page shows a message without a query for a session.
MESSAGE_STORAGE = "django.contrib.messages.storage.cookie.CookieStorage"
ROOT_URLCONF = "bank_site.urls"
WSGI_APPLICATION = "bank_site.wsgi.application"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True, "OPTIONS": {}}]
TEMPLATES[0]["OPTIONS"]["context_processors"] = [
    "django.template.context_processors.request",
    "django.contrib.auth.context_processors.auth",
    "django.contrib.messages.context_processors.messages",
]
LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_I18N = False
STATIC_URL = "/static/"
