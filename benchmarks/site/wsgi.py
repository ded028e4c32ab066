"""The WSGI application, with the variant's pool if it has one to start."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.site.settings")

from benchmarks.site.settings import SIZE, VARIANT  # noqa: E402

VARIANT.start(SIZE)
application = get_wsgi_application()
