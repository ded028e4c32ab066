"""What management commands do about a model without a table."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.folders import ROOT

SECONDS = 120
CONTRIB = "django.contrib.admin django.contrib.auth django.contrib.contenttypes django.contrib.sessions"
CONTRIB += " django.contrib.messages"
PERMISSION = (
    "SELECT app_label, model, codename, name FROM auth_permission"
    " JOIN django_content_type ON django_content_type.id = content_type_id"
    " WHERE app_label = 'django_db_pooling'"
)
GRANTABLE = ("django_db_pooling", "connectionpool", "change_pools", "Can recycle and close connections")


def run(place: Path, *command: str, **variables: str) -> str:
    """A management command in the project; what it says."""
    settings = {"DJANGO_SETTINGS_MODULE": "tests.page.settings", "PAGE_DIRECTORY": str(place)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", *command],
        cwd=ROOT,
        env=os.environ | settings | variables,
        text=True,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(place: Path, sql: str, alias: str = "default") -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(place / f"{alias}.sqlite3")) as database:
        return database.execute(sql).fetchall()


def tables(place: Path, alias: str = "default") -> list[str]:
    return [name for (name,) in ask(place, "SELECT name FROM sqlite_master WHERE type = 'table'", alias)]


def test_no_migration_is_wanted_and_no_check_complains(tmp_path: Path) -> None:
    assert "No changes detected" in run(tmp_path, "makemigrations", "--check", "--dry-run")
    run(tmp_path, "check", "--fail-level=INFO")


def test_a_new_project_gets_the_permission_and_no_table(tmp_path: Path) -> None:
    run(tmp_path, "migrate", "--run-syncdb")
    run(tmp_path, "migrate", "--check")
    assert ask(tmp_path, PERMISSION) == [GRANTABLE]
    assert not [name for name in tables(tmp_path) if name.startswith("django_db_pooling")]


def test_so_does_one_that_was_there_before_the_app(tmp_path: Path) -> None:
    run(tmp_path, "migrate", PAGE_APPS=CONTRIB)
    assert ask(tmp_path, PERMISSION) == []
    run(tmp_path, "migrate")
    assert ask(tmp_path, PERMISSION) == [GRANTABLE]


@pytest.mark.parametrize("routers", ["", "tests.page.routers.UsersInDefault"])
def test_each_database_has_what_its_router_allows(tmp_path: Path, routers: str) -> None:
    for alias in ("default", "other"):
        run(tmp_path, "migrate", f"--database={alias}", PAGE_ROUTERS=routers)
        run(tmp_path, "dumpdata", f"--database={alias}", PAGE_ROUTERS=routers)
    assert ask(tmp_path, PERMISSION) == [GRANTABLE]
    assert ("auth_permission" in tables(tmp_path, "other")) == (not routers)
    if not routers:
        assert ask(tmp_path, PERMISSION, "other") == [GRANTABLE]


def test_commands_that_walk_through_all_models_or_tables_do_without_it(tmp_path: Path) -> None:
    run(tmp_path, "migrate", "--verbosity=0")
    dump = str(tmp_path / "dump.json")
    run(tmp_path, "dumpdata", f"--output={dump}", "--natural-primary", "--natural-foreign", "--all")
    assert "connectionpool" not in run(tmp_path, "inspectdb").lower()
    assert "django_db_pooling_" not in run(tmp_path, "sqlflush")
    run(tmp_path, "remove_stale_contenttypes", "--no-input", "--include-stale-apps")
    run(tmp_path, "flush", "--no-input")
    assert ask(tmp_path, PERMISSION) == [GRANTABLE]
    run(tmp_path, "loaddata", dump)
    run(tmp_path, "dumpdata", "django_db_pooling")
    assert "(no migrations)" in run(tmp_path, "showmigrations", "django_db_pooling")
    assert ask(tmp_path, PERMISSION) == [GRANTABLE]


@pytest.mark.parametrize(
    "others",
    ["", "django.contrib.contenttypes", "django.contrib.auth django.contrib.contenttypes"],
    ids=["nothing", "contenttypes", "auth"],
)
def test_projects_without_the_admin_start_and_have_no_page(tmp_path: Path, others: str) -> None:
    apps = f"django_db_pooling {others}"
    run(tmp_path, "check", "--fail-level=INFO", PAGE_APPS=apps)
    run(tmp_path, "makemigrations", "--check", "--dry-run", PAGE_APPS=apps)
    run(tmp_path, "migrate", PAGE_APPS=apps)
    run(tmp_path, "dumpdata", PAGE_APPS=apps)
    imported = "import sys; print([name for name in sys.modules if 'django_db_pooling.dashboard' in name])"
    assert run(tmp_path, "shell", "-c", imported, PAGE_APPS=apps).splitlines()[-1] == "[]"
