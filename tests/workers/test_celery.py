"""What Celery does to tasks that don't end well, with results in the database: the next one is right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.e2e.observer import DATABASE, Observer
from tests.e2e.sites import Site, environment_of, eventually, in_environment, running
from tests.servers import DatabaseServer, Redis
from tests.soak import OPEN_TRANSACTIONS
from tests.workers.requirements import TASKS, python_with
from tests.workers.rest import PATIENCE, assert_ends, assert_is_at_rest
from tests.workers.task_workers import CELERY
from tests.workers.test_task_workers import call

SECONDS = 300
PREFORK, GEVENT = "-c 1", "-P gevent -c 20"
CHILD, MAIN = "celery prefork #", "celery worker"


@dataclass
class Worker:
    """A worker, and the tasks that it is asked for."""

    site: Site
    server: DatabaseServer
    observer: Observer
    python: Path
    environment: dict[str, str]

    def begin(self, task: str) -> str:
        """Its token, which is its id, too."""
        token = uuid4().hex
        self._call(task, token)
        return token

    def revoke(self, token: str) -> None:
        self._call("revoke", token)

    def _call(self, name: str, token: str) -> None:
        call(self.environment, ["python", "-m", "tests.workers.queues.celery_call", name, token], self.python)

    def result(self, token: str) -> str:
        found = f"SELECT status FROM django_celery_results_taskresult WHERE task_id = '{token}'"
        return " ".join(status for (status,) in self.server.execute(found, DATABASE))

    def marks(self, token: str) -> list[tuple[str, ...]]:
        found = f"SELECT token, part FROM site_mark WHERE token LIKE '{token}%' ORDER BY token, part"
        return self.server.execute(found, DATABASE)

    def transactions(self) -> list[tuple[str, ...]]:
        return self.server.execute(OPEN_TRANSACTIONS[self.server.scheme], DATABASE)

    def work(self) -> None:
        """A task that ends well."""
        token = self.begin("work")
        self.assert_has_ended(token, "SUCCESS", of(token))

    def assert_has_ended(self, token: str, result: str, marks: list[tuple[str, ...]]) -> None:
        eventually(lambda: self.result(token) in ("SUCCESS", "FAILURE", "REVOKED"), PATIENCE)
        assert self.result(token) == result
        eventually(lambda: self.transactions() == [], PATIENCE)
        assert self.marks(token) == marks

    def assert_is_at_rest(self, *programs: str) -> None:
        assert_is_at_rest(self.site, self.server, self.observer, programs, self.work)


def of(token: str) -> list[tuple[str, ...]]:
    """What a task with this token leaves behind."""
    return [(f"{token} {token} {token}", part) for part in "12"]


@pytest.fixture
def how() -> str:
    """A prefork worker with one child."""
    return PREFORK


@pytest.fixture
def worker(
    how: str, server: DatabaseServer, observer: Observer, redis: Redis, settings: dict[str, Any]
) -> Iterator[Worker]:
    command = f"{CELERY} {how}".split()
    python = python_with(command, TASKS)
    assert python is not None
    redis.execute("FLUSHALL")
    settings |= {
        "module": "tests.workers.settings",
        "apps": "django_db_pooling django_celery_results",
        "redis": f"redis://{redis.host}:{redis.port}/0",
    }
    environment = environment_of(server, settings)
    call(environment, ["python", "-m", "django", "migrate", "--verbosity=0"], python)
    with running(in_environment(command, python), dict(environment)) as site:
        # Whose interpreter asks for the reports has no Celery.
        site.environment["SITE_APPS"] = "django_db_pooling"
        worker = Worker(site, server, observer, python, environment)
        worker.work()
        worker.assert_is_at_rest(CHILD if how == PREFORK else MAIN)
        yield worker
        # Of those that were killed.
        lost = observer.lost()
        assert_ends(site, observer)
    assert observer.lost() == lost


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize(("task", "result"), [("stay", "REVOKED"), ("stay_too_long", "FAILURE")])
def test_a_task_whose_process_is_killed(worker: Worker, task: str, result: str) -> None:
    """By ``revoke(terminate=True)``, and by a hard time limit."""
    [connection] = worker.observer.numbers()
    token = worker.begin(task)
    eventually(worker.transactions, PATIENCE)
    if result == "REVOKED":
        worker.revoke(token)
    # Its result comes from the main process.
    worker.assert_has_ended(token, result, [])
    eventually(lambda: connection not in worker.observer.numbers(), PATIENCE)
    worker.work()
    worker.assert_is_at_rest(CHILD, MAIN)


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("how", [GEVENT], ids=["gevent"])
@pytest.mark.parametrize(("task", "result"), [("stay", "REVOKED"), ("stay_too_long", "FAILURE")])
def test_a_task_whose_greenlet_is_ended(worker: Worker, task: str, result: str) -> None:
    """By ``revoke(terminate=True)``, and by a hard time limit: gevent's kill and Timeout."""
    token = worker.begin(task)
    eventually(worker.transactions, PATIENCE)
    if result == "REVOKED":
        worker.revoke(token)
    worker.assert_has_ended(token, result, [])
    worker.work()
    worker.assert_is_at_rest(MAIN)


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("task", ["late", "late_in_a_statement"])
def test_a_task_that_meets_its_soft_time_limit(worker: Worker, task: str) -> None:
    """Its transaction is rolled back; what it does then, and the next task in its process, is right."""
    token = worker.begin(task)
    worker.assert_has_ended(token, "FAILURE", of(token))
    worker.work()
    worker.assert_is_at_rest(CHILD)


@pytest.mark.timeout(SECONDS)
def test_a_task_that_is_retried(worker: Worker) -> None:
    """All that it has written before is rolled back."""
    token = worker.begin("retried")
    worker.assert_has_ended(token, "SUCCESS", of(token))
    worker.work()
    worker.assert_is_at_rest(CHILD)
