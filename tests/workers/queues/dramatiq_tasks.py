from __future__ import annotations

import os

import dramatiq
from django import setup
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=os.environ["SITE_REDIS"]))
setup()


@dramatiq.actor(max_retries=0)
def work(token: str) -> None:
    from tests.workers.queues import work

    work.work(token)


send = work.send
