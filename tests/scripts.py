"""Scripts in a process of their own, with Django and a pool on an SQLite file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = 60
SETTINGS = """
import sys
from django.conf import settings
database = {{"ENGINE": "django.db.backends.sqlite3", "NAME": {path!r}, "POOL": {{"MIN_SIZE": 2}}}}
settings.configure(
    DATABASES={{"default": database}}, USE_TZ=True, SECRET_KEY="only for tests", **{settings!r},
)
import django
from django_db_pooling import pooling
"""


def run(script: str, directory: Path, *, variables: dict[str, str] | None = None, **settings: object) -> str:
    """What it prints. It begins with ``settings``, ``pooling``, ``django`` and ``sys`` at hand."""
    begin = SETTINGS.format(path=str(directory / "test.sqlite3"), settings=settings)
    ours = ("PROMETHEUS_", "prometheus_", "OTEL_", "DJANGO_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-c", begin + script],
        cwd=ROOT,
        env=environment | (variables or {}),
        text=True,
        capture_output=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
