"""Imports go one way, down the floors of tests/unit/rooms.py; so does the picture in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit import imports, rooms

# A package with one module in each of these rooms.
SOUND = {
    "__init__.py": "",
    "log.py": "import logging",
    "process/__init__.py": "",
    "process/fork.py": "from .. import log",
    "process/upkeep.py": "from package.process import fork\nfrom package.log import extra",
    "pool/__init__.py": "from package.pool.pool import Pool as Pool",
    "pool/pool.py": "import threading\nfrom package.process.fork import in_child",
    "drivers/__init__.py": "from importlib import import_module\n\nimport_module(f'package.{1}')",
    "drivers/mysql.py": "def errors():\n    from pymysql import err",
    "ldap/__init__.py": "import ldap\nfrom package.drivers import mysql",
    "registry.py": "from django.db import connections\nfrom package.pool import Pool",
    "metrics/prometheus.py": "from prometheus_client import Counter\nfrom ..registry import registry",
}


def package(folder: Path, **changed: str) -> Path:
    """Below the folder; ``changed``: the room's lines are added to its first module."""
    for name, source in SOUND.items():
        path = folder / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        added = changed.pop(name.removesuffix(".py").removesuffix("/__init__"), "")
        path.write_text(f"{source}\n{added}\n")
    assert not changed
    return folder / "package"


def test_a_package_whose_imports_go_down_is_right(tmp_path: Path) -> None:
    assert rooms.wrong_imports(package(tmp_path)) == []


@pytest.mark.parametrize(
    "turned",
    [
        "from package.registry import registry",
        "import package.registry",
        "from package import registry",
        "from .. import registry",
        "from ..registry import registry as ours",
        "def later():\n    from package.registry import registry",
        "class Late:\n    def __init__(self):\n        import package.registry as ours",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package.registry import registry",
        "try:\n    import package.registry\nexcept ImportError:\n    pass",
        "import importlib\nimportlib.import_module('package.registry')",
        "from importlib import import_module\nimport_module('package.registry')",
        "__import__('package.registry')",
    ],
)
def test_one_import_upward_is_found_in_whatever_way_it_is_written(tmp_path: Path, turned: str) -> None:
    found = rooms.wrong_imports(package(tmp_path, **{"pool/pool": turned}))
    assert "package.pool.pool -> package.registry: pool is not above registry" in found


def test_a_circle_in_one_room_is_found(tmp_path: Path) -> None:
    upward = "def f():\n    from package.process import upkeep"
    found = rooms.wrong_imports(package(tmp_path, **{"process/fork": upward}))
    assert len(found) == 1
    assert found[0].startswith("circle: ")
    assert set(re.findall(r"package\.\S+", found[0])) == {"package.process.fork", "package.process.upkeep"}


def test_a_module_that_imports_its_own_package_is_a_circle(tmp_path: Path) -> None:
    assert imports.circle(imports.of_package(package(tmp_path))) == []
    turned = package(tmp_path, **{"pool/pool": "from package.pool import Pool"})
    assert set(imports.circle(imports.of_package(turned))) == {"package.pool", "package.pool.pool"}


@pytest.mark.parametrize(
    ("room", "line", "reason"),
    [
        ("process/fork", "from django.db import connection", "process imports the standard library only"),
        ("pool/pool", "import greenlet", "pool imports the standard library only"),
        ("pool/pool", "import sqlite3", "only drivers imports sqlite3"),
        ("process/upkeep", "from gevent import monkey", "nobody imports gevent"),
        ("registry", "import opentelemetry.metrics", "only metrics imports opentelemetry"),
        ("drivers", "def f():\n    import prometheus_client", "only metrics imports prometheus_client"),
        ("registry", "from package.metrics import prometheus", "registry is not above metrics"),
        ("registry", "from package import ldap", "nobody imports ldap"),
        ("__init__", "from package import log", "__init__ is not above log"),
    ],
)
def test_what_a_room_may_not_import_is_found(tmp_path: Path, room: str, line: str, reason: str) -> None:
    found = [one.partition(": ")[2] for one in rooms.wrong_imports(package(tmp_path, **{room: line}))]
    assert found[-1:] == [reason]


def test_what_is_too_large_is_found(tmp_path: Path) -> None:
    folder = package(tmp_path)
    (folder / "log.py").write_text("# a line\n" * (rooms.MAX_LINES + 1))
    methods = "".join(f"    def m{number}(self): ...\n" for number in range(rooms.MAX_METHODS + 1))
    (folder / "pool" / "pool.py").write_text(f"class Pool:\n{methods}")
    assert rooms.too_large(folder) == ["log.py: 351 lines", "pool.py: Pool, 26 methods"]


def test_the_core_is_below_each_wing_that_it_must_not_know() -> None:
    wings = [rooms.floor(room) for room in ("workers", "metrics", "management", "dashboard")]
    assert max(map(rooms.floor, rooms.CORE)) < min(wings)
    assert {"pool", "registry", "owner", "backend"} < set(rooms.CORE)


def test_each_room_of_the_package_is_on_the_list() -> None:
    assert rooms.unlisted(rooms.PACKAGE) == set()


def test_imports_of_the_package_go_down() -> None:
    assert rooms.wrong_imports(rooms.PACKAGE) == []


def test_no_module_and_no_class_of_the_package_is_too_large() -> None:
    assert rooms.too_large(rooms.PACKAGE) == []


def test_the_picture_in_the_documentation_is_the_list() -> None:
    """``python -m tests.unit.rooms`` draws it."""
    page = rooms.PAGE.read_text(encoding="utf-8")
    assert rooms.drawn(page) == page


def test_the_documentation_tells_of_each_room_from_the_top() -> None:
    page = rooms.PAGE.read_text(encoding="utf-8").partition("┘\n")[2].partition("\n----")[0]
    told = re.findall(r"``(\w+)", "\n".join(re.findall(r"^``.*", page, re.MULTILINE)))
    assert told == [room for floor in reversed(rooms.FLOORS) for room in floor]
