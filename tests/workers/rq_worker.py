"""``python -m tests.workers.rq_worker Worker``, or another class of RQ's, as projects' scripts start it."""

from __future__ import annotations

import sys

import rq

from tests.workers.queues import rq_tasks

if __name__ == "__main__":
    getattr(rq, sys.argv[1])(["default"], connection=rq_tasks.redis()).work()
