from __future__ import annotations

from django import setup

setup()

from django_q.tasks import async_task  # noqa: E402


def send(token: str) -> None:
    async_task("tests.workers.queues.work.work", token)
