"""Those of the bank, with a directory: an LDAP server whose connections come from a pool, too.

LDAP_URL      ldap://host:389/dc=example,dc=org, the server and the name that all entries are below
LDAP_BIND_DN  whom the site binds as, and LDAP_PASSWORD; without it as nobody
"""

import os
from datetime import UTC
from urllib.parse import unquote, urlsplit

import django.utils.timezone
from bank_site.settings import *  # noqa: F403
from bank_site.settings import DATABASES, INSTALLED_APPS, TEMPLATES

# django-ldapdb wants the name that Django 5 has dropped.
django.utils.timezone.utc = UTC

_url = urlsplit(os.environ["LDAP_URL"])
LDAP_BASE_DN = unquote(_url.path.strip("/"))
DATABASES["directory"] = {
    "ENGINE": "ldapdb.backends.ldap",
    "NAME": f"{_url.scheme}://{_url.netloc}",
    "USER": os.environ.get("LDAP_BIND_DN", ""),
    "PASSWORD": os.environ.get("LDAP_PASSWORD", ""),
}
DATABASE_ROUTERS = ["ldapdb.router.Router"]
INSTALLED_APPS.insert(1, "people")
TEMPLATES[0]["OPTIONS"]["context_processors"].append("people.clerks.clerk")
ROOT_URLCONF = "people.site_urls"
