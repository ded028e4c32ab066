"""What is published: the wheel works in an empty environment, and the sdist has all that its tests need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import django
import pytest

from tests.conftest import give_up
from tests.environments import CannotInstall, install
from tests.folders import ROOT

SECONDS = 600
# What git ignores, roughly, and git itself.
LEFT_OUT = shutil.ignore_patterns(".git", ".*_cache", ".hypothesis", ".nox", ".venv", "__pycache__", "_build")

SETTINGS = """
from pathlib import Path

HERE = Path(__file__).parent
SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": HERE / "site.sqlite3"}}
STATIC_URL = "static/"
STATIC_ROOT = HERE / "static"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django_db_pooling",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
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
]
"""
URLS = """
from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("pools/", include("django_db_pooling.dashboard.urls")),
]
"""
VISIT = """
import django

django.setup()
from django.contrib.auth.models import User
from django.test import Client

client = Client()
client.force_login(User.objects.create_superuser("boss"))
for page in ("/admin/", "/admin/django_db_pooling/connectionpool/", "/pools/"):
    answer = client.get(page)
    assert answer.status_code == 200, (page, answer.status_code)
    print(page, len(answer.content))
"""


def built(folder: Path, *arguments: str) -> Path:
    """What ``python -m build`` makes of the tree, which it would otherwise leave things in."""
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
    place = folder / "dist"
    run(sys.executable, "-m", "build", *arguments, "--outdir", str(place), str(tree), where=folder)
    return place


def run(*command: str, where: Path, **environment: str) -> str:
    """Its output, without anything of this tree or of this process's settings."""
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DJANGO_"))}
    done = subprocess.run(
        command, cwd=where, env=theirs | environment, text=True, capture_output=True, timeout=SECONDS / 2
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.timeout(SECONDS)
def test_the_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    place = built(tmp_path)
    [wheel], [sdist] = place.glob("*.whl"), place.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist), where=tmp_path)
    python = tmp_path / "empty" / "bin" / "python"
    run(sys.executable, "-m", "venv", str(python.parents[1]), where=tmp_path)
    try:
        install(python, str(wheel), f"Django=={django.__version__}")
    except CannotInstall as error:
        give_up(f"Django can't be installed: {error}")

    site = tmp_path / "site"
    site.mkdir()
    (site / "settings.py").write_text(SETTINGS)
    (site / "urls.py").write_text(URLS)

    def use(*arguments: str) -> str:
        # Warnings are errors.
        return run(str(python), "-W", "error", *arguments, where=site, **where)

    where = {"DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": str(site)}
    use("-m", "django", "check", "--fail-level", "WARNING")
    use("-m", "django", "migrate", "--verbosity", "0")
    use("-m", "django", "collectstatic", "--no-input", "--verbosity", "0")
    assert "--plan" in use("-m", "django", "db_pools", "--help")
    print(use("-c", VISIT))
    static = {path.name for path in (site / "static" / "django_db_pooling").rglob("*") if path.is_file()}
    of_the_tree = ROOT / "django_db_pooling" / "static" / "django_db_pooling"
    assert static == {path.name for path in of_the_tree.rglob("*") if path.is_file()} != set()
    package = Path(use("-c", "import django_db_pooling; print(django_db_pooling.__path__[0])").strip())
    assert package.is_relative_to(python.parents[1])
    assert (package / "py.typed").exists()
    # Neither tests nor anything else that would be in other packages' way.
    listed = use("-c", "from importlib.metadata import files; print(*files('django_db_pooling'), sep='\\n')")
    assert {line.split("/")[0].split("-")[0] for line in listed.split()} == {"django_db_pooling"}


@pytest.mark.timeout(SECONDS)
def test_the_sdist_has_what_its_tests_need(tmp_path: Path) -> None:
    [sdist] = built(tmp_path, "--sdist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    tree = tmp_path / sdist.name.removesuffix(".tar.gz")
    for name in (".ci/run", "Makefile", "noxfile.py", "CHANGELOG.rst", "LICENSE", "docs/index.rst"):
        assert (tree / name).exists(), name
    pytest_there = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    run(*pytest_there, "--collect-only", where=tree)
    run(
        *pytest_there,
        "tests/unit/test_docs.py",
        "tests/unit/test_imports.py",
        "tests/unit/test_pool.py",
        where=tree,
    )
