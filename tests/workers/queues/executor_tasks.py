"""Child processes without a library: ``python -m tests.workers.queues.executor_tasks fork``, or spawn."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor

from django import setup
from redis import Redis

setup()

from tests.workers.queues.work import work  # noqa: E402

QUEUE = "executor"
redis = Redis.from_url(os.environ["SITE_REDIS"])


def send(token: str) -> None:
    redis.rpush(QUEUE, token)


def main(method: str) -> None:
    # What the parent has is none of its children's.
    work("of the parent")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as executor:
        while True:
            found = redis.blpop([QUEUE], timeout=1)
            if found is not None:
                executor.submit(work, found[1].decode())


if __name__ == "__main__":
    main(sys.argv[1])
