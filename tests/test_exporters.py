"""settings.DB_POOL_METRICS: what it starts, and what is wrong with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts import run

PATIENCE = 30.0

IMPORTED = """
print([name for name in sys.modules if name in ("prometheus_client", "opentelemetry")])
"""


@pytest.mark.parametrize(
    ("settings", "imported"),
    [
        ({}, []),
        ({"DB_POOL_METRICS": []}, []),
        ({"DB_POOL_METRICS": ["prometheus"]}, ["prometheus_client"]),
        ({"DB_POOL_METRICS": ["opentelemetry"]}, ["opentelemetry"]),
    ],
)
def test_nothing_is_imported_that_nobody_wants(
    settings: dict[str, object], imported: list[str], tmp_path: Path
) -> None:
    assert run("pooling.patch()" + IMPORTED, tmp_path, **settings) == f"{imported}\n"


TAKEN = """
import logging
logging.basicConfig(format="%(message)s", stream=sys.stdout)
from prometheus_client import Gauge
Gauge("django_db_pool_size", "Another one's.")
pooling.patch()
from django.db import connection
with connection.cursor() as cursor:
    print(cursor.execute("SELECT 1").fetchone(), pooling.stats("default").opened)
"""


def test_a_site_whose_metrics_can_t_start_is_pooled_all_the_same(tmp_path: Path) -> None:
    """The log says why, once."""
    reported = run(TAKEN, tmp_path, DB_POOL_METRICS=["prometheus"])
    assert "(1,) 1\n" in reported
    assert reported.count("starting the exporters failed") == 1


LATE = """
import logging, sys
logging.basicConfig(format="%(message)s", stream=sys.stdout)
from django_db_pooling import pooling
pooling.patch()
from django.conf import settings
settings.configure(DB_POOL_METRICS={exporters},
                   DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": {path!r}}}}})
from django.db import connection
connection.ensure_connection()
print("prometheus_client" in sys.modules)
"""


@pytest.mark.parametrize(
    ("exporters", "logged", "imported"),
    [(["prometheus"], False, True), (["statsd"], True, False)],
    ids=["right", "wrong"],
)
def test_settings_may_come_after_patch(
    exporters: list[str], logged: bool, imported: bool, tmp_path: Path
) -> None:
    """The first pool finds them; it is too late to raise what is wrong with them."""
    script = LATE.format(exporters=exporters, path=str(tmp_path / "test.sqlite3"))
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, text=True, capture_output=True, timeout=PATIENCE, check=True)
    assert ("DB_POOL_METRICS is ['statsd']." in done.stdout) is logged
    assert done.stdout.endswith(f"{imported}\n")


CHECK = """
from django.core.checks import run_checks
django.setup()
print([f"{message.id}: {message.msg} {message.hint}" for message in run_checks()])
try:
    pooling.patch()
except Exception as error:
    print(type(error).__name__, error)
"""
NAMES = "It must be a list of exporters, which are 'prometheus' and 'opentelemetry'."


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["prometheus", "statsd"], f"DB_POOL_METRICS is ['prometheus', 'statsd']. {NAMES}"),
        ("prometheus", f"DB_POOL_METRICS is 'prometheus'. {NAMES}"),
        (True, f"DB_POOL_METRICS is True. {NAMES}"),
        ([["prometheus"]], f"DB_POOL_METRICS is [['prometheus']]. {NAMES}"),
    ],
    ids=["an unknown name", "no list", "a switch", "no names"],
)
def test_what_is_no_list_of_exporters_is_an_error(value: object, message: str, tmp_path: Path) -> None:
    found, raised = run(CHECK, tmp_path, DB_POOL_METRICS=value).splitlines()
    assert found == str([f"django_db_pooling.E007: {message}"])
    assert raised == f"ImproperlyConfigured {message} (django_db_pooling.E007)"


@pytest.mark.parametrize(
    ("name", "library"), [("prometheus", "prometheus_client"), ("opentelemetry", "opentelemetry")]
)
def test_a_library_that_is_missing_is_an_error(name: str, library: str, tmp_path: Path) -> None:
    hide = f"sys.modules[{library!r}] = None"
    found, raised = run(hide + CHECK, tmp_path, DB_POOL_METRICS=[name]).splitlines()
    assert "django_db_pooling.E007" in found
    assert f"DB_POOL_METRICS has '{name}', whose library can't be imported: " in raised
    assert f"Run: pip install 'django_db_pooling[{name}]'" in raised
    assert raised.startswith("ImproperlyConfigured")
