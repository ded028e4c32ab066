"""The libraries that do tasks, and the ways of their workers, one a line."""

from __future__ import annotations

from dataclasses import dataclass

from tests.workers.requirements import TASKS

CELERY = "celery -A tests.workers.queues.celery_tasks worker --without-mingle --without-gossip"
RQ = "python -m tests.workers.rq_worker"
DRAMATIQ = "tests.workers.queues.dramatiq_tasks --processes 2 --threads 4"
HUEY_CONSUMER = "huey.bin.huey_consumer"
HUEY = f"{HUEY_CONSUMER} tests.workers.queues.huey_tasks.huey -w 4"
EXECUTOR = "python -m tests.workers.queues.executor_tasks"


@dataclass(frozen=True)
class TaskWorker:
    """One way to do tasks.

    ``queue``: the module in tests/workers/queues. ``called``: what each of its processes is by the package;
    "#" is a number. ``processes``: that have a connection at rest. ``most``: connections that all may have
    under load; None: as many as their pools together. ``apps``: in INSTALLED_APPS. ``goodbye``: as in
    web_servers. ``short``: part of ``make test``.
    """

    name: str
    command: str
    queue: str
    called: str
    processes: int = 1
    most: int | None = None
    libraries: tuple[str, ...] = ()
    apps: str = ""
    goodbye: bool = True
    short: bool = False

    @property
    def programs(self) -> list[str]:
        """What its processes are called."""
        return [self.called] * self.processes


TABLE = [
    TaskWorker("celery-prefork", f"{CELERY} -c 2", "celery_tasks", "celery prefork #", 2, most=2, short=True),
    TaskWorker(
        "celery-prefork-max-tasks",
        f"{CELERY} -c 2 --max-tasks-per-child 5",
        "celery_tasks",
        "celery prefork #",
        2,
        2 * 2,
    ),
    TaskWorker("celery-threads", f"{CELERY} -P threads -c 6", "celery_tasks", "celery worker"),
    TaskWorker("celery-gevent", f"{CELERY} -P gevent -c 20", "celery_tasks", "celery worker", short=True),
    TaskWorker("celery-solo", f"{CELERY} -P solo", "celery_tasks", "celery worker", most=1),
    # A process for each task, of which nothing is left at rest.
    TaskWorker("rq", f"{RQ} Worker", "rq_tasks", RQ, 0, most=1, short=True),
    TaskWorker("rq-simple", f"{RQ} SimpleWorker", "rq_tasks", RQ, most=1),
    TaskWorker("dramatiq", f"dramatiq {DRAMATIQ}", "dramatiq_tasks", "dramatiq", 2),
    TaskWorker("dramatiq-gevent", f"dramatiq-gevent {DRAMATIQ}", "dramatiq_tasks", "dramatiq-gevent", 2),
    TaskWorker("huey-thread", f"python -m {HUEY} -k thread", "huey_tasks", f"python -m {HUEY_CONSUMER}"),
    TaskWorker(
        "huey-greenlet",
        f"python -m gevent.monkey --module {HUEY} -k greenlet",
        "huey_tasks",
        # It runs in gevent's module.
        HUEY_CONSUMER,
    ),
    TaskWorker(
        "huey-process",
        f"python -m {HUEY} -k process",
        "huey_tasks",
        f"python -m {HUEY_CONSUMER}",
        4,
        most=4,
    ),
    # Two do tasks, one keeps their results.
    TaskWorker(
        "django-q2",
        "python -m django qcluster",
        "django_q_tasks",
        "django qcluster",
        3,
        libraries=TASKS,
        apps="django_q",
    ),
    TaskWorker(
        "django-tasks-db",
        "python -m django db_worker --interval 0.1",
        "django_tasks_db_tasks",
        "django db_worker",
        libraries=TASKS,
        apps="django_tasks_db",
    ),
    TaskWorker("executor-fork", f"{EXECUTOR} fork", "executor_tasks", EXECUTOR, 3, most=3),
    TaskWorker("executor-spawn", f"{EXECUTOR} spawn", "executor_tasks", EXECUTOR, 3, most=3),
]
