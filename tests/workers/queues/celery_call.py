"""Begins a task: ``python -m tests.workers.queues.celery_call TASK TOKEN``; "revoke" ends one."""

from __future__ import annotations

import sys

from django import setup

from tests.workers.queues import celery_tasks


def main(name: str, token: str) -> None:
    if name == "revoke":
        celery_tasks.app.control.revoke(token, terminate=True)
    else:
        getattr(celery_tasks, name).apply_async([token], task_id=token)


if __name__ == "__main__":
    # Results are rows of a table.
    setup()
    main(*sys.argv[1:])
