"""Django's own test machinery with the patch on, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connections

from django_db_pooling import pooling
from tests.behaviour.conftest import DRIVER, committed
from tests.behaviour.models import Note
from tests.behaviour.observer import Observer

ROOT = Path(__file__).parents[2]


def run_tests(*arguments: str, **environment: str) -> None:
    command = [sys.executable, "-m", "tests.behaviour.project", "test", "--noinput", *arguments]
    command += ["--pattern", "suite.py", "tests.behaviour.project"]
    run = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        text=True,
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "OK" in run.stderr


@pytest.fixture(autouse=True)
def real_data(observer: Observer) -> None:
    Note.objects.create(text="real")
    connections.close_all()
    pooling.close_all()


@pytest.mark.parametrize("order", [[], ["--reverse"], ["--shuffle", "7"]], ids=["", "reverse", "shuffle"])
def test_a_projects_tests_pass_and_never_touch_the_real_database(order: list[str], tmp_path: Path) -> None:
    """An app queries in ready(): its idle connections to the real database are around all the time."""
    run_tests(*order, POOLING_TEST_NAME=str(tmp_path / "project.sqlite3"))
    assert committed() == ["real"]


@pytest.mark.only("threads")
def test_a_projects_tests_pass_in_parallel(tmp_path: Path) -> None:
    """The runner forks, and each child works on a clone."""
    run_tests("--parallel", "2", POOLING_TEST_NAME=str(tmp_path / "project.sqlite3"))
    assert committed() == ["real"]


@pytest.mark.only("sqlite3")
@pytest.mark.parametrize("parallel", [[], ["--parallel", "2"]], ids=["", "parallel"])
def test_a_projects_tests_pass_on_sqlite_in_memory(parallel: list[str]) -> None:
    if parallel and os.environ.get("POOLING_GEVENT"):
        pytest.skip("the runner's processes are not for gevent")
    run_tests(*parallel)
    assert committed() == ["real"]
    assert DRIVER == "sqlite3"
