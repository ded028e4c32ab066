"""The WSGI application, and what is done before it can answer."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from django.core.wsgi import get_wsgi_application

from tests.site import pooled as pooled

django_application = get_wsgi_application()


def _stay_in_a_transaction(where: str, has_begun: threading.Event) -> None:
    """Until somebody has written into a FIFO; then say which connection it has been."""
    from django.db import transaction

    from tests.site.views import connection_number

    with transaction.atomic():
        number = connection_number()
        has_begun.set()
        # Blocks without running any Python meanwhile: whoever forks disturbs nobody.
        Path(where).read_bytes()
        assert connection_number() == number
    print(f"the master's connection is {number}", flush=True)


if "SITE_TRANSACTION_UNTIL" in os.environ:
    _has_begun = threading.Event()
    arguments = (os.environ["SITE_TRANSACTION_UNTIL"], _has_begun)
    threading.Thread(target=_stay_in_a_transaction, args=arguments, daemon=True).start()
    assert _has_begun.wait(20)

if os.environ.get("SITE_QUERY_AT_START"):
    # As a project does that reads its configuration from the database. With --preload: in the master.
    from django.db import connection

    from tests.site.models import Row

    if os.environ["SITE_QUERY_AT_START"] == "in two threads":
        # It stays in use.
        connection.ensure_connection()
    assert Row.objects.count()
    if os.environ["SITE_QUERY_AT_START"] == "in two threads":
        # Beside the main thread's connection, which stays in use: one that is idle.
        with ThreadPoolExecutor(1) as executor:
            assert executor.submit(Row.objects.count).result()
            thread = Path(f"/proc/self/task/{executor.submit(threading.get_native_id).result()}")
        # Python's join returns a little earlier. On its way out the thread takes locks of OpenSSL's, and who
        # forks meanwhile has children that wait for these for ever when they connect.
        while thread.exists():
            time.sleep(0.001)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Django's, ended by gevent.Timeout after ``deadline`` seconds where the query string says so."""
    deadline = parse_qs(environ["QUERY_STRING"]).get("deadline")
    if deadline is None:
        return django_application(environ, start_response)
    import gevent

    with gevent.Timeout(float(deadline[0])):
        return django_application(environ, start_response)
