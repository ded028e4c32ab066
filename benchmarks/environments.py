"""A virtual environment for each set of requirements, kept outside of the repository.

0.0.4 has the import name of this package, so they can't share one. Django, gevent, gunicorn and the drivers
have the versions that the runner's own environment has, in all of them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from benchmarks.variants import TREE, Variant
from tests.environments import CannotInstall, environment, install

ROOT = Path(__file__).parents[1]
BASE = ("Django", "gevent", "greenlet", "gunicorn", "packaging", "PyMySQL", "psycopg", "psycopg-binary")
# The package itself, without the rest of the tree.
PACKAGE = ("django_db_pooling", "setup.cfg", "setup.py", "pyproject.toml", "README.rst", "LICENSE")


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "django_db_pooling" / "benchmarks"


def base_requirements() -> list[str]:
    return [f"{name}=={version(name)}" for name in BASE]


@contextmanager
def only_benchmarks() -> Iterator[Path]:
    """A directory to run a variant in: from there ``benchmarks`` is found, and nothing else of the tree."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        os.symlink(ROOT / "benchmarks", Path(directory) / "benchmarks")
        yield Path(directory)


class Environments:
    """Each is made at first use. The working tree is installed once in a lifetime of this object."""

    def __init__(self) -> None:
        self._pythons: dict[tuple[str, ...], Path] = {}
        self._failures: dict[tuple[str, ...], str] = {}

    def python_for(self, variant: Variant) -> Path:
        """The interpreter to run a variant with. Raises CannotInstall, each time."""
        return self.python_with(*variant.requires)

    def python_with(self, *key: str) -> Path:
        """The interpreter for any other set of requirements."""
        if key in self._failures:
            raise CannotInstall(self._failures[key])
        if key not in self._pythons:
            try:
                self._pythons[key] = _make(key)
            except CannotInstall as error:
                self._failures[key] = str(error)
                raise
        return self._pythons[key]


def _make(requires: tuple[str, ...]) -> Path:
    published = [*base_requirements(), *(name for name in requires if name != TREE)]
    python = environment(cache(), published, name=" ".join(requires))
    if TREE in requires:
        _install_tree(python)
    return python


def _install_tree(python: Path) -> None:
    """A copy, so that edits meanwhile have no effect, and nothing is built inside of the tree."""
    with tempfile.TemporaryDirectory(prefix="tree-") as copy:
        for name in PACKAGE:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, Path(copy) / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy)
        install(python, "--no-deps", "--force-reinstall", copy)
