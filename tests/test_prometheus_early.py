"""Prometheus may ask before the project is there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.stubbed import ROOT

EARLY = """
import tempfile
from prometheus_client import CollectorRegistry, generate_latest
from django_db_pooling.metrics import prometheus
registry = CollectorRegistry()
prometheus.register(registry, only_this_process={})
early = generate_latest(registry).decode()
assert "django_db_pool_in_use" in early and 'alias="' not in early, early
from django.conf import settings
name = tempfile.mkdtemp() + "/db"
settings.configure(DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": name}}}})
assert 'django_db_pool_in_use{{alias="default"' in generate_latest(registry).decode()
"""


@pytest.mark.parametrize("only_this_process", [False, True])
def test_a_scrape_before_there_are_settings_shows_no_pool(only_this_process: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    run = subprocess.run(
        [sys.executable, "-c", EARLY.format(only_this_process)],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
