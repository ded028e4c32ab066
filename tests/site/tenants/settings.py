"""Those of the test site, with what django-tenants wants."""

from __future__ import annotations

import json
import os

from tests.site.settings import *  # noqa: F403
from tests.site.settings import DATABASES, MIDDLEWARE

DATABASES["default"]["ENGINE"] = "django_tenants.postgresql_backend"
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
SHARED_APPS = ["django_tenants", "django.contrib.contenttypes", "tests.site.tenants"]
TENANT_APPS = ["tests.site"]
INSTALLED_APPS = SHARED_APPS + TENANT_APPS
TENANT_MODEL = "tenants.Tenant"
TENANT_DOMAIN_MODEL = "tenants.Domain"
TENANT_LIMIT_SET_CALLS = json.loads(os.environ.get("SITE_LIMIT_SET_CALLS", "false"))
MIDDLEWARE = ["tests.site.tenants.views.TenantOfQueryString", *MIDDLEWARE]
ROOT_URLCONF = PUBLIC_SCHEMA_URLCONF = "tests.site.tenants.urls"
