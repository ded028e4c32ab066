"""The same site under an ASGI server, without pooling: the example is about wsgi.py under gevent."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bank_site.settings")

application = get_asgi_application()
