from __future__ import annotations

from django import setup

setup()

try:
    from django.tasks import task
except ImportError:
    from django_tasks import task

from tests.workers.queues import work as body  # noqa: E402


@task()
def work(token: str) -> None:
    body.work(token)


send = work.enqueue
