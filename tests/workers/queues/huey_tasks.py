from __future__ import annotations

import os

from django import setup
from huey import RedisHuey

huey = RedisHuey(url=os.environ["SITE_REDIS"])
setup()


@huey.task()
def work(token: str) -> None:
    from tests.workers.queues import work

    work.work(token)


send = work
