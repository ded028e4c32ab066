"""The tests by Django, Python and drivers. ``nox -l`` lists the sessions, ``nox`` runs the short set.

Each session has an environment of its own below .nox, made once; tests start their servers by themselves.
Arguments behind ``--`` go to pytest, instead of what the session would run.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))

from tests.environments import CannotInstall, environment, find_python  # noqa: E402

# The Pythons that each Django supports, from 3.11 on.
MATRIX = {
    "5.2": ["3.11", "3.12", "3.13", "3.14"],
    "6.0": ["3.12", "3.13", "3.14"],
    "6.1": ["3.12", "3.13", "3.14"],
}
# Those that `nox` runs.
SHORT = {("5.2", "3.11"), ("6.0", "3.12"), ("6.1", "3.13"), ("6.1", "3.14")}
# What the names of behaviour tests say (pytest -k).
DRIVERS = {
    "sqlite": "sqlite3",
    "postgresql": "psycopg",
    "mysql": "pymysql or mysqlclient",
}
ONE_SERVER = "sqlite3-threads or pymysql-gevent"
EXTRAS = ["test", "conformance", "mysqlclient", "test-ldap", "test-uwsgi"]
# Compiled on the machine where there is no wheel. Where that can't be done their tests are skipped, but not
# in CI.
COMPILED = ("mysqlclient", "python-ldap", "mprov-django-ldapdb", "pyuwsgi")

setup = configparser.ConfigParser()
setup.read(ROOT / "setup.cfg", encoding="utf-8")


def requirements(django: str) -> list[str]:
    """Of the package and of the tests, as setup.cfg has them, with the Django asked for."""
    extras = [setup["options.extras_require"][extra] for extra in EXTRAS]
    lines = "\n".join([setup["options"]["install_requires"], *extras]).split("\n")
    return [django, *sorted({line for line in lines if line and not line.startswith("Django>")})]


def lowest(published: Iterable[str]) -> list[str]:
    """The lowest version that each of them allows."""
    return [requirement.replace(">=", "==") for requirement in published]


def base_of(session: nox.Session, python: str) -> Path:
    base = find_python(python)
    if base is None:
        session.skip(f"Python {python} is not on this machine, neither on PATH nor pyenv's")
    return base


def prepare(session: nox.Session, python: str, published: list[str]) -> Path:
    """The interpreter of an environment with these requirements."""
    base = base_of(session, python)
    place = ROOT / ".nox" / "environments"
    try:
        return environment(place, published, base=base)
    except CannotInstall as error:
        if os.environ.get("CI"):
            raise
        session.warn(f"{error}; going on without {', '.join(COMPILED)}")
    return environment(place, [one for one in published if not one.startswith(COMPILED)], base=base)


def test(session: nox.Session, python: Path, *runs: list[str]) -> None:
    workers = ["-n", os.environ.get("WORKERS", "2"), "--dist", "worksteal"]
    failed = []
    for arguments in [session.posargs] if session.posargs else runs:
        try:
            session.run(str(python), "-m", "pytest", *workers, *arguments, external=True)
        except CommandFailed:
            failed.append(" ".join(arguments) or "tests")
    if failed:
        session.error(f"failed: {', '.join(failed)}")


def behaviour(drivers: str) -> list[str]:
    return ["tests/behaviour", "-k", drivers]


UNIT = ["tests/unit"]


def add(django: str, python: str, name: str, *runs: list[str], default: bool, tags: list[str]) -> None:
    major, minor = map(int, django.split("."))
    published = requirements(f"Django>={django},<{major}.{minor + 1}")

    @nox.session(name=f"django{django}-python{python}-{name}", python=False, default=default, tags=tags)
    def session(session: nox.Session) -> None:
        test(session, prepare(session, python, published), *runs)


def newest_here(django: str) -> str:
    """Of the Pythons that this Django supports; the newest of all where there is none."""
    pythons = MATRIX[django]
    return next((python for python in reversed(pythons) if find_python(python)), pythons[-1])


OLDEST_DJANGO, *_, NEWEST_DJANGO = MATRIX
NEWEST = (NEWEST_DJANGO, newest_here(NEWEST_DJANGO))
for django, pythons in MATRIX.items():
    for python in pythons:
        here = (django, python)
        default = here in SHORT
        # Neither what `make test` runs nor what `make test-newest` does.
        tags = ["short", "between"] if default and django != OLDEST_DJANGO and here != NEWEST else ["short"]
        add(django, python, "short", UNIT, behaviour(ONE_SERVER), default=default, tags=tags)
        for name, drivers in DRIVERS.items():
            add(django, python, name, behaviour(drivers), default=False, tags=[name])
        tags = ["full", "newest"] if here == NEWEST else ["full"]
        add(django, python, "full", [], default=False, tags=tags)


@nox.session(name="lowest", python=False, tags=["short", "between"])
def lowest_versions(session: nox.Session) -> None:
    """The lowest versions that setup.cfg allows, of Python as well."""
    [python] = re.findall(r">=([\d.]+)", setup["options"]["python_requires"])
    [django] = re.findall(r"Django>=.*", setup["options"]["install_requires"])
    test(session, prepare(session, python, lowest(requirements(django))), UNIT, behaviour(ONE_SERVER))


@nox.session(python=False, tags=["short", "between"])
def prerelease(session: nox.Session) -> None:
    """Django's newest pre-release, on the newest Python that is here."""
    python = newest_here(NEWEST_DJANGO)
    ask = [str(base_of(session, python)), "-m", "pip", "index", "versions", "Django", "--pre"]
    listed = session.run(*ask, silent=True, external=True)
    newest = re.findall(r"Django \(([^)]+)\)", str(listed))[0]
    if newest.replace(".", "").isdecimal():
        session.log(f"Django has no pre-release that is newer than {newest}")
        return
    test(session, prepare(session, python, requirements(f"Django=={newest}")), UNIT, behaviour(ONE_SERVER))
