"""Each task worker with the same task: right rows, few connections, and none that stays."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import ALL_SERVERS
from tests.e2e.observer import DATABASE, Observer
from tests.e2e.sites import COMMAND_SECONDS, ROOT, environment_of, eventually, in_environment, running
from tests.servers import DatabaseServer, Redis
from tests.workers import task_workers
from tests.workers.requirements import python_with
from tests.workers.rest import MOST, PATIENCE, assert_ends, assert_is_at_rest
from tests.workers.task_workers import TaskWorker

SECONDS = 300
TABLE = [row for row in task_workers.TABLE if row.short or ALL_SERVERS]


def call(environment: dict[str, str], command: list[str], python: Path | None) -> None:
    subprocess.run(
        in_environment(command, python), cwd=ROOT, env=environment, check=True, timeout=COMMAND_SECONDS
    )


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_a_task_worker(
    row: TaskWorker, server: DatabaseServer, observer: Observer, redis: Redis, settings: dict[str, Any]
) -> None:
    command = row.command.split()
    python = python_with(command, row.libraries)
    redis.execute("FLUSHALL")
    settings |= {
        "module": "tests.workers.settings",
        "apps": f"django_db_pooling {row.apps}",
        "redis": f"redis://{redis.host}:{redis.port}/0",
    }
    environment = environment_of(server, settings)
    if row.apps:
        call(environment, ["python", "-m", "django", "migrate", "--verbosity=0"], python)
    with running(in_environment(command, python), dict(environment)) as site:
        # Whose interpreter asks for the reports may not have these libraries.
        site.environment["SITE_APPS"] = "django_db_pooling"

        def work(count: int = 5) -> None:
            """Have so many done, and look at what they have left behind."""
            tokens = [uuid4().hex for _ in range(count)]
            expected = sorted((f"{token} {token} {token}", part) for token in tokens for part in "12")
            call(environment, ["python", "-m", "tests.workers.queues.send", row.queue, *tokens], python)
            wanted = " OR ".join(f"token LIKE '{token}%'" for token in tokens)
            marks = f"SELECT token, part FROM site_mark WHERE {wanted} ORDER BY token, part"
            eventually(
                lambda: site.process.poll() is not None or len(server.execute(marks, DATABASE)) >= 2 * count,
                PATIENCE,
            )
            assert server.execute(marks, DATABASE) == expected

        lost = observer.lost()
        with observer.watching() as watch:
            work(20)
        print(watch)
        most = row.processes * MOST if row.most is None else row.most
        # One more is ours, who look at the rows; one is the sender's, where its queue is in the database.
        assert 1 < watch.most <= most + 1 + bool(row.apps)
        assert_is_at_rest(site, server, observer, row.programs, work)
        assert_ends(site, observer)
    assert not row.goodbye or observer.lost() == lost
