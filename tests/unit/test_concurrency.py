"""How many processes there are and what each serves at once: for the check of a server's limit and --plan."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from django_db_pooling import capacity
from django_db_pooling.capacity import Server
from django_db_pooling.management import plan
from django_db_pooling.pool.stats import PoolStats
from django_db_pooling.process import concurrency
from django_db_pooling.workers import overview
from django_db_pooling.workers.reports import PoolReport, Report
from tests.conftest import require_module

ROOT = Path(__file__).parents[2]
SECONDS = 30.0
NAMES = ("GUNICORN_CMD_ARGS", "UWSGI_THREADS", *concurrency._WORKERS)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("variables", "file", "workers", "callers"),
    [
        ({}, None, None, None),
        ({"WEB_CONCURRENCY": "20"}, None, 20, None),
        ({"WEB_CONCURRENCY": "auto", "GRANIAN_WORKERS": "3"}, None, 3, None),
        ({"UVICORN_WORKERS": "2"}, None, 2, None),
        ({"UWSGI_PROCESSES": "4", "UWSGI_THREADS": "8"}, None, 4, 8),
        ({"GUNICORN_CMD_ARGS": "--workers=20 -k sync", "WEB_CONCURRENCY": "3"}, None, 20, 1),
        ({"GUNICORN_CMD_ARGS": "-w 4 --threads 8"}, None, 4, 8),
        ({"GUNICORN_CMD_ARGS": "-w4 --worker-class gthread"}, None, 4, 1),
        ({"GUNICORN_CMD_ARGS": "-w 4 -k gevent --threads 8"}, None, 4, None),
        ({"GUNICORN_CMD_ARGS": "--keep-alive 5"}, None, None, None),
        ({}, 'workers = 20\nworker_class = "sync"\n', 20, 1),
        ({"WEB_CONCURRENCY": "3"}, "workers = 20\n", 20, None),
        ({"GUNICORN_CMD_ARGS": "-k gthread"}, 'worker_class = "sync"\nthreads = 6\n', None, 6),
        ({"WEB_CONCURRENCY": "3"}, "import os\nworkers = int(os.environ['WEB_CONCURRENCY'])\n", 3, None),
        ({}, "raise SystemExit(worker_class = 'sync'", None, None),
        ({"WEB_CONCURRENCY": "0"}, "workers = 0\n", None, None),
    ],
)
def test_what_the_environment_and_gunicorn_s_file_say(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variables: dict[str, str],
    file: str | None,
    workers: int | None,
    callers: int | None,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if file is not None:
        (tmp_path / "gunicorn.conf.py").write_text(file)
    assert (concurrency.workers(), concurrency.callers()) == (workers, callers)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of the only alias that there is."""
    pool = {"SIZE": 10, "MAX_OUTSTANDING": 20}
    settings = {"default": {"ENGINE": "django.db.backends.mysql", "POOL": pool}}
    monkeypatch.setattr(capacity, "connections", SimpleNamespace(settings=settings))
    monkeypatch.setattr(capacity, "server_of", lambda alias: Server("mysql", "db", ""))
    return pool


SAYS = """
from pathlib import Path
from django_db_pooling.process import concurrency
Path("said").write_text(repr(concurrency.callers_here()) + ".")
application = None
"""


@pytest.mark.parametrize(
    ("server", "arguments", "expected"),
    [
        ("gunicorn", [], "1"),
        ("gunicorn", ["--preload"], "1"),
        ("gunicorn", ["-k", "gthread"], "None"),
        ("gunicorn", ["--threads", "4"], "None"),
        ("uvicorn", [], "None"),
        ("pyuwsgi", ["--processes", "2", "--threads", "3", "--lazy-apps"], "3"),
        ("pyuwsgi", [], "1"),
    ],
)
def test_what_a_server_says_of_its_own_process(
    tmp_path: Path, server: str, arguments: list[str], expected: str
) -> None:
    (tmp_path / "served.py").write_text(SAYS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    program = str(Path(sys.executable).with_name(server))
    require_module(server)
    served = {
        "gunicorn": ["--bind=127.0.0.1:0", "served"],
        "uvicorn": ["--port=0", "served:application"],
        "pyuwsgi": ["--master", "--http-socket=127.0.0.1:0", "--module=served"],
    }[server]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [program, *served, *arguments], env=environment, cwd=tmp_path, stdout=log, stderr=log
        )
        try:
            said, deadline = tmp_path / "said", time.monotonic() + SECONDS
            while not (said.exists() and said.read_text().endswith(".")):
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait(SECONDS)
    assert (tmp_path / "said").read_text() == f"{expected}."


def report(pid: int, program: str, callers: int | None, idle: int = 0) -> Report:
    stats = PoolStats("default", 10, 20, idle=idle)
    return Report(
        str(pid), pid, "here", program, 0.0, 0.0, {"default": PoolReport(stats, [], [])}, callers=callers
    )


@pytest.mark.parametrize(
    ("reports", "most", "said"),
    [
        ([report(1, "gunicorn", None)], 20, None),
        ([report(1, "gunicorn", 1), report(2, "gunicorn", 1)], 1, "(gunicorn: 1)"),
        # A view has threads of its own.
        ([report(1, "gunicorn", 1, idle=3)], 3, "(gunicorn: 1)"),
        (
            [report(1, "celery prefork 1", 1), report(2, "celery prefork 2", 1), report(3, "uwsgi", 8)],
            8,
            "(celery prefork: 1, uwsgi: 8)",
        ),
        ([report(1, "uwsgi", 100)], 20, None),
        ([report(1, "gunicorn", 1), report(2, "gunicorn", None)], 20, "(gunicorn: 1)"),
    ],
)
def test_a_plan_counts_what_a_process_serves_at_once(
    pool: dict[str, Any], reports: list[Report], most: int, said: str | None
) -> None:
    seen = overview.picture(reports, [], 0.0)
    [[share]] = plan.servers(seen).values()
    assert share.maximum == most
    assert share.is_reported
    note = plan.few_callers(seen)
    assert note is None if said is None else note is not None and said in note


def test_without_processes_it_counts_by_the_settings_and_the_server_s(
    pool: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = overview.picture([], [], 0.0)
    assert [share.maximum for [share] in plan.servers(seen).values()] == [20]
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "-k sync")
    assert [share.maximum for [share] in plan.servers(seen).values()] == [1]
    monkeypatch.setitem(pool, "MAX_OUTSTANDING", None)
    assert [share.maximum for [share] in plan.servers(seen).values()] == [1]
