"""The site of tests/site with APScheduler in its process, and jobs that leave their sessions changed.

They have more threads, which never end, than the pool has connections.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from django.db import connection

from tests.site.wsgi import application as application

AT_ONCE = 10
# Longer than a session is left alone that others need.
EVERY = 2
LASTS = timedelta(seconds=10)


def work(number: int) -> None:
    # Imported when Django has been set up, as wsgi.py does it.
    from tests.site.fault_views import READ_TAG, SET_TAG

    with connection.cursor() as cursor:
        cursor.execute(SET_TAG[connection.vendor], [str(number)])
        cursor.execute(READ_TAG[connection.vendor])
        assert cursor.fetchone()[0] == str(number)


scheduler = BackgroundScheduler(executors={"default": ThreadPoolExecutor(AT_ONCE)}, timezone="UTC")
end = datetime.now(UTC) + LASTS
for number in range(AT_ONCE):
    scheduler.add_job(work, "interval", [number], seconds=EVERY, end_date=end)
scheduler.start()
