from __future__ import annotations

import os

from celery import Celery  # type: ignore[import-not-found,unused-ignore]

app = Celery("site", broker=os.environ["SITE_REDIS"])


@app.task
def work(token: str) -> None:
    from tests.workers.queues import work

    work.work(token)


send = work.delay
