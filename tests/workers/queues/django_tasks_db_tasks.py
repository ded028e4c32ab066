from __future__ import annotations

from django import setup

setup()

from django_tasks import task  # noqa: E402

from tests.workers.queues import work as body  # noqa: E402


@task()
def work(token: str) -> None:
    body.work(token)


send = work.enqueue
