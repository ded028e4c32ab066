"""What somebody does who comes from another pool, or follows the first page too quickly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from django_db_pooling import conf
from django_db_pooling.conf import problems
from django_db_pooling.drivers.rules import MYSQL, POSTGRESQL, SQLITE, UNWRITTEN, Rules

ROOT = Path(__file__).parents[2]

SYNONYMS = [
    # psycopg_pool
    ("max_size", "MAX_OUTSTANDING"),
    ("MAX_LIFETIME", "MAX_AGE"),
    ("MAX_IDLE", "IDLE_TIMEOUT"),
    # SQLAlchemy, django-db-connection-pool
    ("POOL_SIZE", "SIZE"),
    ("MAX_OVERFLOW", "MAX_OUTSTANDING"),
    ("PRE_PING", "PING"),
    ("pool_pre_ping", "PING"),
    ("RECYCLE", "MAX_AGE"),
    # django-db-geventpool
    ("MAX_CONNS", "MAX_OUTSTANDING"),
    ("REUSE_CONNS", "SIZE"),
    # HikariCP
    ("maximumPoolSize", "MAX_OUTSTANDING"),
    ("minimumIdle", "MIN_SIZE"),
    ("connectionTimeout", "TIMEOUT"),
    ("idleTimeout", "IDLE_TIMEOUT"),
    ("maxLifetime", "MAX_AGE"),
    ("leakDetectionThreshold", "LEAK_THRESHOLD"),
    ("HEALTH_CHECK", "PING"),
    ("CONN_MAX_AGE", "MAX_AGE"),
    # misspelt
    ("size", "SIZE"),
    ("Timeout", "TIMEOUT"),
    ("SICE", "SIZE"),
    ("MAX_OUTSTANDIN", "MAX_OUTSTANDING"),
]


def hint(**pool: Any) -> str:
    (problem,) = problems("default", {"POOL": pool})
    return problem.hint


@pytest.mark.parametrize(("name", "key"), SYNONYMS)
def test_other_pools_names_lead_to_the_key_that_means_the_same(name: str, key: str) -> None:
    said = hint(**{name: 5})
    assert repr(key) in said.partition(" Keys are ")[0]
    assert key in conf._KEYS


@pytest.mark.parametrize("name", ["ECHO", "USE_LIFO", "NUM_WORKERS", "color"])
def test_where_nothing_is_near_nothing_is_guessed(name: str) -> None:
    assert hint(**{name: 5}).startswith("Keys are SIZE, ")


def test_what_max_outstanding_and_min_size_do_not_go_with_is_told() -> None:
    assert "SIZE (30) or more" in hint(SIZE=30, MAX_OUTSTANDING=20)
    assert "from 0 to SIZE (5)" in hint(SIZE=5, MIN_SIZE=6)


CODE = """
import json, sys
sys.modules["MySQLdb"] = None
{before}
from django.conf import settings
settings.configure(
    DATABASES={{"default": {{"ENGINE": "django.db.backends.mysql", "POOL": {pool}}}}}, INSTALLED_APPS={apps}
)
import django
from django.core.exceptions import ImproperlyConfigured
from django_db_pooling import pooling
try:
    {step}
except ImproperlyConfigured as error:
    print(json.dumps(str(error)))
else:
    print(json.dumps("fine"))
"""
ALL = ["django.contrib.contenttypes", "django.contrib.auth", "django_db_pooling"]


def told(step: str, apps: list[str], before: str = "", pool: Any = None) -> str:
    """In a process without MySQLdb: the ImproperlyConfigured that there is, or "fine"."""
    code = CODE.format(step=step, apps=apps, before=before, pool=pool)
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    return str(json.loads(run.stdout))


@pytest.mark.parametrize(
    ("step", "apps"),
    [("pooling.patch()", []), ("pooling.patch(); django.setup()", ALL), ("django.setup()", ALL)],
    ids=["patch", "both", "app"],
)
def test_pymysql_that_is_not_introduced_is_told_of_instead_of_another_driver(
    step: str, apps: list[str]
) -> None:
    said = told(step, apps)
    assert "'default' needs MySQLdb" in said
    assert "pymysql.install_as_MySQLdb()" in said
    assert "E010" in said
    assert "mysqlclient" not in said


def test_pymysql_that_is_introduced_or_not_there_is_not_told_of() -> None:
    introduced = "import pymysql; pymysql.install_as_MySQLdb()"
    assert told("django.setup()", ALL, introduced) == "fine"
    # Django's own words.
    assert "mysqlclient" in told("django.setup()", ALL, 'sys.modules["pymysql"] = None')
    assert "mysqlclient" in told("django.setup()", ALL, pool=False)


MULTIPLE = """
import json
from django.conf import settings
settings.configure(
    DATABASES={{
        "default": {default},
        "shop": {{"ENGINE": "django.db.backends.sqlite3", "NAME": {name!r}, "POOL": {{"SIZE": 2}}}},
    }},
    INSTALLED_APPS={apps},
)
import django
django.setup()
from django.core.management import call_command
from django.db import connections
from django_db_pooling import pooling
pooling.patch()
call_command("check")
with connections["shop"].cursor() as cursor:
    cursor.execute("SELECT 1")
pooling.release()
pooling.close_all()
pooling.warm_up()
pooling.pause(); pooling.resume()
print(json.dumps([sorted(pooling.stats()), type(connections["default"]).__module__]))
"""


@pytest.mark.parametrize("default", ["{}", '{"POOL": False}', '{"POOL": {"SIZE": 3}}'])
@pytest.mark.parametrize("apps", [[], ALL], ids=["patch", "app"])
def test_an_empty_default_alias_works(default: str, apps: list[str], tmp_path: Path) -> None:
    """The pattern of Django's page on multiple databases."""
    code = MULTIPLE.format(default=default, apps=apps, name=str(tmp_path / "shop.sqlite3"))
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == [["shop"], "django.db.backends.dummy.base"]


GEVENT = """
import json, logging
records = []
class Keep(logging.Handler):
    def emit(self, record): records.append(record.getMessage())
logging.getLogger("django_db_pooling").addHandler(Keep())
{before}
import gevent
from django.conf import settings
settings.configure(DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": {name!r}}}}})
import django
django.setup()
from django.core import signals
from django.db import connection
from django_db_pooling import pooling
pooling.patch()
def view():
    signals.request_started.send(None)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    signals.request_finished.send(None)
{run}
print(json.dumps([record for record in records if "W012" in record]))
"""
TWICE = "[gevent.spawn(view).get() for _ in range(2)]"


@pytest.mark.parametrize(
    ("before", "run", "times"),
    [("", TWICE, 1), ("import gevent.monkey; gevent.monkey.patch_all()", TWICE, 0), ("", "view()", 0)],
    ids=["unpatched", "patched", "no greenlet"],
)
def test_gevent_that_has_patched_nothing_is_told_of_once(
    before: str, run: str, times: int, tmp_path: Path
) -> None:
    code = GEVENT.format(before=before, run=run, name=str(tmp_path / "site.sqlite3"))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert len(said) == times
    assert all("patch_all()" in text for text in said)


ASKING = [
    (MYSQL, "SELECT  last_insert_id ( ), 'lastval('", "last_insert_id()"),
    (MYSQL, "SHOW COUNT(*) WARNINGS", "SHOW COUNT(*) WARNINGS"),
    (MYSQL, "SELECT @@identity", "@@identity"),
    (POSTGRESQL, "SELECT currval('a_seq')", "currval()"),
    (SQLITE, "SELECT changes()", "changes()"),
    (SQLITE, "SELECT 'changes()'", None),
    (UNWRITTEN, "SELECT changes()", None),
]


@pytest.mark.parametrize(("rules", "sql", "function"), ASKING)
def test_the_function_that_needs_the_last_statements_session_is_named(
    rules: Rules, sql: str, function: str | None
) -> None:
    assert rules.asked(sql) == function
