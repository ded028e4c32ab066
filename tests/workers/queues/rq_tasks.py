from __future__ import annotations

import os

from django import setup
from redis import Redis
from rq import Queue

# Before a worker forks, as in a project's own worker script.
setup()

from tests.workers.queues.work import work  # noqa: E402


def redis() -> Redis:
    return Redis.from_url(os.environ["SITE_REDIS"])


def send(token: str) -> None:
    Queue(connection=redis()).enqueue(work, token)
