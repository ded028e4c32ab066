"""The libraries that do tasks, and the ways of their workers, one a line."""

from __future__ import annotations

from dataclasses import dataclass

from tests.workers.requirements import TASKS

CELERY = "celery -A tests.workers.queues.celery_tasks worker --without-mingle --without-gossip"
RQ = "python -m tests.workers.rq_worker"
DRAMATIQ = "tests.workers.queues.dramatiq_tasks --processes 2 --threads 4"
HUEY = "huey.bin.huey_consumer tests.workers.queues.huey_tasks.huey -w 4"
EXECUTOR = "python -m tests.workers.queues.executor_tasks"


@dataclass(frozen=True)
class TaskWorker:
    """One way to do tasks.

    ``queue``: the module in tests/workers/queues. ``processes``: that have a connection at rest. ``most``:
    connections that all may have under load; None: as many as their pools together. ``apps``: in
    INSTALLED_APPS. ``goodbye``: as in web_servers. ``short``: part of ``make test``.
    """

    name: str
    command: str
    queue: str
    processes: int = 1
    most: int | None = None
    libraries: tuple[str, ...] = ()
    apps: str = ""
    goodbye: bool = True
    short: bool = False


TABLE = [
    TaskWorker("celery-prefork", f"{CELERY} -c 2", "celery_tasks", 2, most=2, short=True),
    TaskWorker(
        "celery-prefork-max-tasks",
        f"{CELERY} -c 2 --max-tasks-per-child 5",
        "celery_tasks",
        2,
        2 * 2,
    ),
    TaskWorker("celery-threads", f"{CELERY} -P threads -c 6", "celery_tasks"),
    TaskWorker("celery-gevent", f"{CELERY} -P gevent -c 20", "celery_tasks", short=True),
    TaskWorker("celery-solo", f"{CELERY} -P solo", "celery_tasks", most=1),
    # A process for each task, of which nothing is left at rest.
    TaskWorker("rq", f"{RQ} Worker", "rq_tasks", 0, most=1, short=True),
    TaskWorker("rq-simple", f"{RQ} SimpleWorker", "rq_tasks", most=1),
    TaskWorker("dramatiq", f"dramatiq {DRAMATIQ}", "dramatiq_tasks", 2),
    TaskWorker("dramatiq-gevent", f"dramatiq-gevent {DRAMATIQ}", "dramatiq_tasks", 2),
    TaskWorker("huey-thread", f"python -m {HUEY} -k thread", "huey_tasks"),
    TaskWorker("huey-greenlet", f"python -m gevent.monkey --module {HUEY} -k greenlet", "huey_tasks"),
    TaskWorker("huey-process", f"python -m {HUEY} -k process", "huey_tasks", 4, most=4),
    # Two do tasks, one keeps their results.
    TaskWorker(
        "django-q2", "python -m django qcluster", "django_q_tasks", 3, libraries=TASKS, apps="django_q"
    ),
    TaskWorker(
        "django-tasks-db",
        "python -m django db_worker --interval 0.1",
        "django_tasks_db_tasks",
        libraries=TASKS,
        apps="django_tasks_db",
    ),
    TaskWorker("executor-fork", f"{EXECUTOR} fork", "executor_tasks", 3, most=3),
    TaskWorker("executor-spawn", f"{EXECUTOR} spawn", "executor_tasks", 3, most=3),
]
