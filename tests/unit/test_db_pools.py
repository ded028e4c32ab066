"""manage.py db_pools of a site whose pool is used up: what it says and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = """
from pathlib import Path
HERE = Path(__file__).parent
SECRET_KEY = "only for tests"
DB_POOL_STATUS_DIR = str(HERE / "status")
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(HERE / "site.sqlite3"),
        "POOL": {"SIZE": 1, "MAX_OUTSTANDING": 1, "TIMEOUT": 60},
    }
}
INSTALLED_APPS = ["django_db_pooling"]
USE_TZ = True
"""
# One request has the only connection, two wait for it until somebody writes a line.
SITE = """
import sys, threading
import django; django.setup()
from django.core import signals
from django.db import connection
taken, over = threading.Event(), threading.Event()
def view(path):
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path}
    signals.request_started.send(None, environ=environ)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    taken.set()
    over.wait()
    signals.request_finished.send(None)
threads = [threading.Thread(target=view, args=(f"/{'long' * 30}/{n}/",), daemon=True) for n in range(3)]
threads[0].start(); taken.wait()
for thread in threads[1:]: thread.start()
print("ready", flush=True)
sys.stdin.readline()
over.set()
for thread in threads: thread.join()
print("idle", flush=True)
sys.stdin.readline()
"""


class Site:
    def __init__(self, folder: Path) -> None:
        (folder / "db_pools_settings.py").write_text(SETTINGS)
        path = os.pathsep.join([str(ROOT), str(folder)])
        self.environment = os.environ | {"DJANGO_SETTINGS_MODULE": "db_pools_settings", "PYTHONPATH": path}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SITE],
            env=self.environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def told(self) -> None:
        """Go on."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "idle\n"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "django", "db_pools", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def waiting(self) -> int:
        pools = json.loads(self.run("--json").stdout)["pools"]
        return sum(pool["total"]["waiting"] for pool in pools)


@contextmanager
def running(folder: Path) -> Iterator[Site]:
    """With two that wait."""
    site = Site(folder)
    try:
        until = time.monotonic() + 30
        while site.waiting() != 2:
            assert time.monotonic() < until
        yield site
    finally:
        site.process.kill()
        site.process.communicate()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("site")) as site:
        yield site


def test_into_a_pipe_nothing_is_cut(site: Site) -> None:
    done = site.run()
    assert done.returncode == 0, done.stderr
    assert "GET /" + "long" * 30 + "/0/" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--watch", "0"], "above 0"),
        (["--watch=-1"], "above 0"),
        (["--watch", "nan"], "above 0"),
        (["--fail-if-waiting=-3"], "0 or more"),
        (["--fail-if-waiting", "1.5"], "0 or more"),
        (["--fail-if-waiting", "1", "--for", "0"], "above 0"),
        (["--for", "3"], "--for goes with --fail-if-waiting"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(site: Site, arguments: list[str], words: str) -> None:
    done = site.run(*arguments)
    assert done.returncode not in (0, 2) or "usage:" in done.stderr
    assert words in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [["--watch", "0.1"], ["--watch", "0.1", "--json"], []])
def test_into_a_closed_pipe_it_ends_quietly(site: Site, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    if not arguments:
        os.close(reader)
    command = subprocess.Popen(
        site.command(*arguments), env=site.environment, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    if arguments:
        assert os.read(reader, 10)
        os.close(reader)
    _, said = command.communicate(timeout=30)
    assert (command.returncode, said) == (0, "")


def test_who_waits_for_long_is_a_failure_and_a_burst_is_none(site: Site) -> None:
    assert site.run("--fail-if-waiting", "2").returncode == 0
    assert site.run("--fail-if-waiting", "2", "--for", "60").returncode == 0
    done = site.run("--fail-if-waiting", "1")
    assert done.returncode == 1
    assert "2 callers wait for a connection, more than 1." in done.stderr
    began = time.monotonic()
    done = site.run("--fail-if-waiting", "1", "--for", "2")
    assert time.monotonic() - began > 2
    assert done.returncode == 1
    assert "more than 1 for 2 s." in done.stderr
    done = site.run("--watch", "0.1", "--fail-if-waiting", "1", "--for", "1")
    assert done.returncode == 1
    assert done.stdout.count(" in use ") > 1


def test_a_burst_that_ends_meanwhile_is_no_failure(tmp_path: Path) -> None:
    with running(tmp_path) as site:
        command = subprocess.Popen(
            site.command("--fail-if-waiting", "0", "--for", "60"),
            env=site.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(1)
        site.told()
        said = command.communicate(timeout=50)
        assert command.returncode == 0, said


def alone(folder: Path, settings: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Where no process of the site runs."""
    (folder / "db_pools_settings.py").write_text(settings)
    path = os.pathsep.join([str(ROOT), str(folder)])
    return subprocess.run(
        [sys.executable, "-m", "django", "db_pools", *arguments],
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "db_pools_settings", "PYTHONPATH": path},
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_where_nobody_reports_the_reasons_are_a_list(tmp_path: Path) -> None:
    done = alone(tmp_path, SETTINGS, "--fail-if-waiting", "1", "--for", "60")
    assert done.returncode == 2
    assert done.stderr.count("\n- ") == 4
    assert str(tmp_path) in done.stderr


@pytest.mark.parametrize("databases", ['{"default": {}}', 'DATABASES | {"default": {"POOL": False}}'])
def test_where_nothing_is_pooled_that_is_the_reason(databases: str, tmp_path: Path) -> None:
    done = alone(tmp_path, f"{SETTINGS}\nDATABASES = {databases}\n")
    assert (done.returncode, done.stderr) == (
        2,
        "CommandError: No alias of DATABASES is pooled: each has POOL False or no ENGINE.\n",
    )
