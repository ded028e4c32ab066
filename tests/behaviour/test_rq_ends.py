"""RQ forks a process for each job, which ends by os._exit(): it says goodbye to the server before."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.behaviour.test_errors import in_process
from tests.behaviour.test_worker_processes import ABORTED
from tests.conftest import give_up
from tests.servers import free_port

pytestmark = [
    pytest.mark.only("pymysql", "mysqlclient"),
    pytest.mark.never("pymysql", "gevent"),
    pytest.mark.never("mysqlclient", "gevent"),
]
SECONDS = 30.0
JOBS = """
import rq
from redis import Redis

redis = Redis(port={port}, db={db})
queue = rq.Queue("jobs", connection=redis)
def job(fails):
    work()
    {also}
    redis.rpush("found", os.getpid())
    if fails:
        raise ZeroDivisionError
sys.modules["__main__"].job = job
for fails in (False, True, False):
    queue.enqueue("tests.behaviour.rq_job.run", fails)
"""
RUN = """
import tests.behaviour
module = sys.modules["tests.behaviour.rq_job"] = types.ModuleType("tests.behaviour.rq_job")
tests.behaviour.rq_job = module
module.run = job
rq.{worker}([queue], connection=redis).work(burst=True, logging_level="ERROR")
found = [value.decode() for value in redis.lrange("found", 0, -1)]
eventually(lambda: others() == pooling.stats("default").idle)
mine = str(os.getpid())
print(json.dumps([aborted() - before, [pid == mine for pid in found]]))
"""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of a Redis server."""
    program = shutil.which("redis-server")
    if program is None:
        give_up("redis-server is not installed")
    folder: Path = tmp_path_factory.mktemp("redis")
    port = free_port()
    command = [str(program), "--port", str(port), "--save", "", "--dir", str(folder)]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + SECONDS
            while "Ready to accept connections" not in (folder / "log").read_text():
                assert time.monotonic() < deadline and server.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
            yield port
        finally:
            server.terminate()
            server.wait(SECONDS)


@pytest.mark.parametrize("worker", ["Worker", "SimpleWorker"])
def test_no_job_leaves_a_client_that_was_aborted(worker: str, port: int) -> None:
    db = ["Worker", "SimpleWorker"].index(worker)
    aborted, are_mine = in_process(
        ABORTED + JOBS.format(port=port, db=db, also="") + RUN.format(worker=worker)
    )
    assert aborted == 0
    assert are_mine == [worker == "SimpleWorker"] * 3


def test_a_job_that_ends_its_process_itself_would_leave_one(port: int) -> None:
    """That the other test can fail."""
    also = "os._exit(0)"
    aborted, _ = in_process(ABORTED + JOBS.format(port=port, db=2, also=also) + RUN.format(worker="Worker"))
    assert aborted > 0
