"""As `django-admin startproject` makes it: the pools are in the settings."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bank_site.settings")

application = get_wsgi_application()
