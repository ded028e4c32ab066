from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery  # type: ignore[import-not-found,unused-ignore]
from celery.exceptions import SoftTimeLimitExceeded  # type: ignore[import-not-found,unused-ignore]

app = Celery("site", broker=os.environ["SITE_REDIS"])
app.config_from_object("django.conf:settings", namespace="CELERY")
# Longer than any test waits.
FOR_EVER = 600
# Longer than the soft limit, in a statement that the server may go on with.
TOO_LONG = 5


@app.task
def work(token: str) -> None:
    from tests.workers.queues import work

    work.work(token)


send = work.delay


# -- tasks that don't end well ---------------------------------------------------------------------------


def begin(token: str) -> None:
    """The first half of a transaction."""
    from tests.site.models import Mark

    Mark.objects.create(token=f"{token} begun", part=1)


@app.task
def stay(token: str) -> None:
    from django.db import transaction

    with transaction.atomic():
        begin(token)
        time.sleep(FOR_EVER)


@app.task(time_limit=2)
def stay_too_long(token: str) -> None:
    stay(token)


@app.task(soft_time_limit=1)
def late(token: str) -> None:
    """Between two statements; it uses the database before it ends."""
    from django.db import transaction

    try:
        with transaction.atomic():
            begin(token)
            time.sleep(FOR_EVER)
    except SoftTimeLimitExceeded:
        work(token)
        raise


@app.task(soft_time_limit=1)
def late_in_a_statement(token: str) -> None:
    from django.db import transaction

    from tests.site.views import sleep_in_database

    try:
        with transaction.atomic():
            begin(token)
            sleep_in_database(TOO_LONG)
    except SoftTimeLimitExceeded:
        work(token)
        raise


@app.task(bind=True, max_retries=2)
def retried(self: Any, token: str) -> None:
    from django.db import transaction

    with transaction.atomic():
        work(token)
        if self.request.retries < self.max_retries:
            raise self.retry(countdown=0)
