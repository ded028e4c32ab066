"""What a process is called: told apart from others of its program, and without what its arguments hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAYS = "from django_db_pooling.process import program\nprint(program.name())\n"
SECRET = "redis://:s3cret@broker/0"


def told(folder: Path, *arguments: str) -> str:
    """What a process calls itself that Python runs with these arguments."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("program", "arguments", "expected"),
    [
        ("manage.py", ["qcluster"], "manage.py qcluster"),
        ("manage.py", ["runserver", "0.0.0.0:8000", "--noreload"], "manage.py runserver"),
        ("manage.py", ["db_worker", "--queue-name", "secret"], "manage.py db_worker"),
        ("manage.py", ["createsuperuser", "--email=a@b.example"], "manage.py createsuperuser"),
        ("manage.py", [], "manage.py"),
        ("manage.py", ["--help"], "manage.py"),
        ("manage.py", [SECRET], "manage.py"),
        ("django-admin", ["migrate"], "django-admin migrate"),
        ("celery", ["-A", "site", "worker", "-c", "4"], "celery worker"),
        ("celery", ["--app=site", f"--broker={SECRET}", "beat"], "celery beat"),
        ("celery", ["-b", SECRET, "-A", "beat", "-q", "worker"], "celery worker"),
        ("celery", ["-A", "site"], "celery"),
        ("rq", ["worker", "--url", SECRET, "high"], "rq worker"),
        ("rqworker", ["high"], "rqworker"),
        ("gunicorn", ["worker"], "gunicorn"),
        ("import.py", ["--password", "s3cret", "s3cret"], "import.py"),
    ],
)
def test_a_script_and_its_command(tmp_path: Path, program: str, arguments: list[str], expected: str) -> None:
    (tmp_path / program).write_text(SAYS)
    assert told(tmp_path, program, *arguments) == expected


@pytest.mark.parametrize(
    ("module", "arguments", "expected"),
    [
        ("imports/nightly.py", ["s3cret"], "python -m imports.nightly"),
        ("nightly.py", [], "python -m nightly"),
        ("manage.py", ["qcluster"], "python -m manage qcluster"),
        ("gunicorn/__main__.py", ["site.wsgi"], "gunicorn"),
        ("celery/__main__.py", ["-A", "site", "worker"], "celery worker"),
        ("django/__main__.py", ["qcluster"], "django qcluster"),
    ],
)
def test_a_module(tmp_path: Path, module: str, arguments: list[str], expected: str) -> None:
    path = tmp_path / module
    path.parent.mkdir(exist_ok=True)
    if path.name == "__main__.py":
        # In the place of the real package, which isn't needed here.
        (path.parent / "__init__.py").touch()
    path.write_text(SAYS)
    name = module.removesuffix("/__main__.py").removesuffix(".py").replace("/", ".")
    assert told(tmp_path, "-m", name, *arguments) == expected


def test_code_on_the_command_line(tmp_path: Path) -> None:
    assert told(tmp_path, "-c", SAYS, "s3cret") == "python -c"


def test_an_interpreter_without_arguments(tmp_path: Path) -> None:
    assert told(tmp_path, "-c", "import sys\ndel sys.argv\n" + SAYS) == "python"


SPAWNS = """
import multiprocessing
def work():
    from django_db_pooling.process import program
    print(program.name())
if __name__ == "__main__":
    for method in ("fork", "spawn"):
        process = multiprocessing.get_context(method).Process(target=work)
        process.start()
        process.join()
"""


def test_children_are_called_as_their_parent(tmp_path: Path) -> None:
    (tmp_path / "manage.py").write_text(SPAWNS)
    (tmp_path / "nightly.py").write_text(SPAWNS)
    assert told(tmp_path, "manage.py", "qcluster").split("\n") == ["manage.py qcluster"] * 2
    assert told(tmp_path, "-m", "nightly").split("\n") == ["python -m nightly"] * 2
