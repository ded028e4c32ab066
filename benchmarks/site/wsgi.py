"""The WSGI application, with the variant's pool if it has one to start."""

from __future__ import annotations

import gc
import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.site.settings")

from benchmarks.site.settings import SIZE, VARIANT  # noqa: E402

VARIANT.start(SIZE)
application = get_wsgi_application()
# As sites do that look at their longest response times: what is there for good isn't looked through again and
# again, which would take 30 to 60 ms each time, whatever the variant.
gc.freeze()
