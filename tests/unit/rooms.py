"""The rooms of the package, a folder or a file at its top each, and what one of them may import.

A room imports from the floors below its own, nothing from its own floor or above.
``python -m tests.unit.rooms`` draws the picture of docs/internals.rst anew.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from tests.unit import imports

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "django_db_pooling"
PAGE = ROOT / "docs" / "internals.rst"

# From the ground. Who wants to know what a room may import reads the lines above its own.
FLOORS = [
    ["log", "exceptions", "signals"],
    ["process", "synonyms"],
    ["pool"],
    ["conf"],
    ["drivers", "status_dir", "versions"],
    ["host_limit"],
    ["capacity", "database_pool", "ldap"],
    ["checks", "registry"],
    ["owner"],
    ["backend"],
    ["addresses", "units"],
    ["workers"],
    ["metrics", "management"],
    ["handler", "middleware"],
    ["pooling"],
    ["dashboard", "models"],
    ["admin", "apps"],
]
# The core works without them and doesn't import them: rooms above plug them in. A wing can be deleted, with
# those lines. One exception: ldap is named by a line of the core, in the table of drivers/__init__.py.
WINGS = ["ldap", "workers", "metrics", "management", "dashboard"]
CORE = [room for floor in FLOORS[: FLOORS.index(["backend"]) + 1] for room in floor if room not in WINGS]
# No import statement names them. Django finds management; drivers/__init__.py imports ldap.backend by the
# name in its table, which tests/unit/imports.py doesn't see.
ALONE = ["ldap", "management"]
# These know the standard library only.
PLAIN = ["log", "process", "pool"]
# Libraries that one room imports and no other.
OWN = {
    "prometheus_client": "metrics",
    "opentelemetry": "metrics",
    "pymysql": "drivers",
    "MySQLdb": "drivers",
    "psycopg": "drivers",
    "psycopg2": "drivers",
    "sqlite3": "drivers",
    "ldap": "ldap",
    # By nobody: what is there is found in sys.modules.
    "gevent": "",
    "celery": "",
    "django_tasks": "",
    "dramatiq": "",
    "huey": "",
    "rq": "",
}
MAX_LINES = 350
MAX_METHODS = 25


def wrong_imports(package: Path) -> list[str]:
    """What is against the rules above, a sentence each."""
    everything = imports.of_package(package)
    circle = imports.circle(everything)
    wrong = ["circle: " + " -> ".join(circle)] if circle else []
    for module, imported in sorted(everything.items()):
        for name in sorted(imported):
            own = name.split(".")[0] == package.name
            reason = _between_rooms(module, name) if own else _outside(module, name)
            wrong += [f"{module} -> {name}: {reason}"] if reason else []
    return wrong


def unlisted(package: Path) -> set[str]:
    """Rooms that are in the package or on the list, but not in both."""
    there = {imports.room(module) for module in imports.of_package(package)} - {"__init__"}
    return there ^ {room for floor in FLOORS for room in floor}


def floor(room: str) -> int:
    """Of the package's ``__init__.py``: -1. What isn't listed is below all others."""
    return next((number for number, rooms in enumerate(FLOORS) if room in rooms), -1)


def _between_rooms(module: str, name: str) -> str:
    above, below = imports.room(module), imports.room(name)
    if above == below:
        return ""
    if floor(below) >= floor(above):
        return f"{above} is not above {below}"
    return f"nobody imports {below}" if below in ALONE else ""


def _outside(module: str, name: str) -> str:
    room, library = imports.room(module), name.split(".")[0]
    if OWN.get(library, room) != room:
        return f"only {OWN[library]} imports {library}" if OWN[library] else f"nobody imports {library}"
    if room in PLAIN and library not in sys.stdlib_module_names:
        return f"{room} imports the standard library only"
    return ""


def too_large(package: Path) -> list[str]:
    """Modules with too many lines, classes with too many methods."""
    wrong = []
    for path in sorted(package.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        lines = len(source.splitlines())
        wrong += [f"{path.name}: {lines} lines"] if lines > MAX_LINES else []
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                methods = sum(isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) for one in node.body)
                wrong += [f"{path.name}: {node.name}, {methods} methods"] if methods > MAX_METHODS else []
    return wrong


def picture() -> str:
    """The floors from the top, the wings at the side."""
    rows = [f"┌{'─ on top ':─<34}┬{'─ wings ':─<24}┐"]
    for rooms in reversed(FLOORS):
        if rooms == ["backend"]:
            rows.append(f"├{'─ core ':─<34}┤{'':24}│")
        core = [room for room in rooms if room not in WINGS]
        wings = [room for room in rooms if room in WINGS]
        rows.append(f"│ {'   '.join(core):<32} │ {'   '.join(wings):<22} │")
    rows.append(f"└{'─' * 34}┴{'─' * 24}┘")
    return "".join(f"    {row}\n" for row in rows)


def drawn(page: str) -> str:
    """The page with the picture that ``picture`` draws."""
    before, rest = page.split("    ┌", 1)
    return before + picture() + rest.split("┘\n", 1)[1]


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
