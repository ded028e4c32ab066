"""Celery's own worker, in a process of its own: it loads Django itself, and closes connections as it does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import give_up
from tests.scripts import ROOT, run

SECONDS = 60.0

SETTINGS = """
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": %r}}
INSTALLED_APPS = ["django_db_pooling"]
SECRET_KEY = "only for tests"
"""
APP = """
import json
from celery import Celery, signals
from pathlib import Path

FOLDER = Path(__file__).parent
queues = {name: str(FOLDER / "queue") for name in ("data_folder_in", "data_folder_out")}
app = Celery("site", broker="filesystem://", broker_transport_options=queues)

@app.task
def work():
    from django.db import connection
    from django_db_pooling import owner, pooling
    from django_db_pooling.process import program

    in_use = pooling.stats("default").in_use
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM sqlite_temp_master")
        [(changed,)] = cursor.fetchall()
        cursor.execute("CREATE TEMPORARY TABLE mine (a)")
    found = [in_use, changed, connection.connection is not None, owner.current().holder.request]
    found.append(program.name())
    with (FOLDER / "found").open("a") as file:
        print(json.dumps(found), file=file)
"""


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork", "gevent"])
def test_celery_s_tasks_are_units_of_work(pool: str, tmp_path: Path) -> None:
    try:
        import celery  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError:
        give_up("celery is not installed; `pip install .[test]` does it")
    (tmp_path / "site_settings.py").write_text(SETTINGS % str(tmp_path / "test.sqlite3"))
    (tmp_path / "site_tasks.py").write_text(APP)
    (tmp_path / "queue").mkdir()
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "site_settings",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
    }
    command = [sys.executable, "-m", "celery", "-A", "site_tasks", "worker", "-c", "1", "--pool", pool]
    with (tmp_path / "log").open("w") as log:
        worker = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
        try:
            found = [_found(tmp_path, worker, environment) for _ in range(3)]
        finally:
            worker.terminate()
            worker.wait(SECONDS)
    name = "celery prefork 1" if pool == "prefork" else "celery worker"
    assert found == [[0, 0, True, "task site_tasks.work", name]] * 3


def _found(folder: Path, worker: subprocess.Popen[bytes], environment: dict[str, str]) -> Any:
    """What a task has seen."""
    (folder / "found").write_text("")
    send = "from site_tasks import work; work.delay()"
    subprocess.run([sys.executable, "-c", send], env=environment, cwd=folder, check=True)
    deadline = time.monotonic() + SECONDS
    while not (text := (folder / "found").read_text()).endswith("\n"):
        assert worker.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.05)
    return json.loads(text)


# -- libraries that are loaded before and after patch() -------------------------------------------------

LOADED = """
import sys
if {first}:
    import huey.api
django.setup()
pooling.patch()
import huey.api
from huey import MemoryHuey
from django.db import connection
from django_db_pooling import owner

queue = MemoryHuey(immediate=True)

@queue.task()
def work():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return [connection.connection is not None, owner.current().holder.request]

print(work().get(), pooling.stats("default").in_use, "celery" in sys.modules)
"""


@pytest.mark.parametrize("first", [True, False])
def test_a_library_s_tasks_are_followed_whenever_it_is_loaded(first: bool, tmp_path: Path) -> None:
    try:
        import huey  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError:
        give_up("huey is not installed; `pip install .[test]` does it")
    told = run(LOADED.format(first=first), tmp_path)
    assert told == "[True, 'task __main__.work'] 0 False\n"


UNKNOWN = """
import types, logging
library = types.ModuleType("huey.api")
sys.modules["huey.api"] = library
logging.basicConfig(stream=sys.stdout, format="%(message)s")
django.setup()
pooling.patch()
pooling.patch()
"""


def test_a_version_that_is_other_than_those_known_is_said_once_and_breaks_nothing(tmp_path: Path) -> None:
    lines = [line for line in run(UNKNOWN, tmp_path).splitlines() if "huey" in line]
    assert len(lines) == 1
    assert lines[0].startswith("units of work of huey.api are code outside of requests here: AttributeError")
