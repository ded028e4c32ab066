"""Libraries that work but hurt, in an environment that has them: the check and the log say so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import require, require_environment
from tests.folders import ROOT
from tests.servers import MariaDB

OLD = {"gevent": "26.7.0", "greenlet": "3.5.5", "gunicorn": "26.0.0", "PyMySQL": "1.2.3"}
COMPILED = {"mysqlclient": "2.3.0"}

SITE = """
import logging, sys
{before}
from django.conf import settings
settings.configure(
    DATABASES={{"default": {{"ENGINE": "django.db.backends.{engine}", "NAME": "x"}}}},
    INSTALLED_APPS=["django_db_pooling"],
)
logged = []
class Keep(logging.Handler):
    def emit(self, record): logged.append(record.getMessage())
logging.getLogger("django_db_pooling").addHandler(Keep())
import django
django.setup()
from django.core.checks import WARNING, run_checks
from django_db_pooling.checks import check_pools
checked = [check for check in check_pools(None) if check.id == "django_db_pooling.W010"]
assert all(check.level == WARNING for check in checked)
for check in checked:
    [line] = [line for line in logged if check.msg in line]
    assert check.hint in line
    print(check.msg.split(" is ")[0])
"""
GEVENT = "from gevent import monkey\nmonkey.patch_all()"
PYMYSQL = "import pymysql\npymysql.install_as_MySQLdb()"


def told(python: Path, before: str, engine: str = "sqlite3") -> list[str]:
    done = subprocess.run(
        [python, "-c", SITE.format(before=before, engine=engine)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def python_with(versions: dict[str, str]) -> Path:
    place = Path(os.environ.get("POOLING_ENVIRONMENTS") or Path(sys.prefix, "environments"))
    pinned = [f"{name}=={version}" for name, version in versions.items()]
    return require_environment(place, ["Django>=5.2", *pinned])


@pytest.mark.timeout(300)
def test_each_is_told_of_where_it_is_in_use_and_nowhere_else() -> None:
    python = python_with(OLD)
    assert told(python, "") == []
    assert told(python, "import gevent, greenlet, gunicorn.workers.gthread") == []
    assert told(python, GEVENT) == ["gevent 26.7.0", "greenlet 3.5.5"]
    assert told(python, "import gunicorn.workers.gasgi") == ["gunicorn 26.0.0"]
    # Its __version__ says something else.
    assert told(python, PYMYSQL, "mysql") == ["PyMySQL 1.2.3"]


@pytest.mark.timeout(300)
def test_so_is_mysqlclient() -> None:
    require(MariaDB)
    assert told(python_with(COMPILED), "", "mysql") == ["mysqlclient 2.3.0"]


def test_what_the_tests_run_with_is_sound() -> None:
    for before, engine in (
        (GEVENT, "sqlite3"),
        (PYMYSQL, "mysql"),
        ("import gunicorn.workers.gasgi", "sqlite3"),
    ):
        assert told(Path(sys.executable), before, engine) == []
