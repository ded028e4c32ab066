"""The process of one run: a neighbour's probes, patched or not. Writes its report as JSON."""

from __future__ import annotations

import os

if os.environ.get("POOLING_GEVENT"):
    from gevent import monkey

    monkey.patch_all()

import json
import sys
import time
import traceback
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.neighbours import suite
from tests.neighbours.neighbours import NEIGHBOURS
from tests.neighbours.spec import Spec

REST_SECONDS = 5.0
# A package in the directory of the run, for what makemigrations writes.
MIGRATIONS = "probes_migrations"


def _database(spec: Spec) -> dict[str, Any]:
    neighbour = NEIGHBOURS[spec.neighbour]
    if neighbour.psycopg2:
        # Django prefers psycopg 3 where both are installed.
        sys.modules["psycopg"] = None  # type: ignore[assignment]
    if "mysql" in spec.database["ENGINE"]:
        import_module("pymysql").install_as_MySQLdb()
    database = spec.database | dict(neighbour.database)
    if spec.scope is not None:
        database["POOL"] = {"SCOPE": spec.scope, "TIMEOUT": 10}
    return database


def _configure(spec: Spec) -> None:
    from django.conf import settings

    neighbour = NEIGHBOURS[spec.neighbour]
    chosen = {
        "DATABASES": {"default": _database(spec)},
        "INSTALLED_APPS": [
            "django.contrib.contenttypes",
            "django.contrib.auth",
            *neighbour.apps,
            "tests.neighbours.app.Probes",
        ],
        "MIDDLEWARE": list(neighbour.middleware),
        "ROOT_URLCONF": neighbour.module,
        "MIGRATION_MODULES": {"probes": MIGRATIONS},
        "SECRET_KEY": "only for tests",
        "PASSWORD_HASHERS": ["django.contrib.auth.hashers.MD5PasswordHasher"],
        "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
        "ALLOWED_HOSTS": ["*"],
        "USE_TZ": True,
        "STATIC_URL": "/static/",
        "LOGGING_CONFIG": None,
        "TEMPLATES": [
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
    }
    settings.configure(**chosen | dict(neighbour.settings))


def _patch(connections: int) -> None:
    """The two lines, as in wsgi.py."""
    from django_db_pooling import pooling

    pooling.set_pool_size(connections, max_outstanding=connections)
    pooling.patch()


def _stats() -> dict[str, Any]:
    """Of the pool, when all is over and nothing is in use any more, or should not be."""
    from django.db import connections

    from django_db_pooling import pooling

    connections.close_all()
    deadline = time.monotonic() + REST_SECONDS
    while pooling.stats("default").in_use and time.monotonic() < deadline:
        time.sleep(0.05)
    stats = pooling.stats("default")
    return {name: getattr(stats, name) for name in ("checkouts", "in_use", "timeouts", "opened", "resets")}


def _outcome(function: Any) -> Any:
    try:
        return json.loads(json.dumps(function(), default=str))
    except Exception:
        return {"raised": traceback.format_exc()}


def _probe(spec: Spec) -> dict[str, Any]:
    """The results of the probes, on a new database."""
    import django
    from django.core.management import call_command

    django.setup()
    neighbour = NEIGHBOURS[spec.neighbour]
    if "MIGRATION_MODULES" not in neighbour.settings:
        Path(MIGRATIONS).mkdir()
        Path(MIGRATIONS, "__init__.py").touch()
        call_command("makemigrations", "probes", verbosity=0)
    call_command("migrate", verbosity=0)
    module = import_module(neighbour.module)
    return {name: _outcome(probe) for name, probe in list(vars(module).items()) if name.startswith("probe_")}


def main() -> None:
    spec = Spec.of_this_process()
    neighbour = NEIGHBOURS[spec.neighbour]
    if not neighbour.suite:
        _configure(spec)
    if neighbour.first:
        import_module(neighbour.first)
    if spec.scope is not None:
        _patch(neighbour.connections)
    if neighbour.suite:
        results = suite.run(neighbour.package, neighbour.suite, _database(spec))
    else:
        results = _probe(spec)
    report = {
        "results": results,
        "version": version(neighbour.package),
        "stats": {} if spec.scope is None else _stats(),
        "imported": "django_db_pooling" in sys.modules,
    }
    Path(spec.output).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
