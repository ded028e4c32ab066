"""Which module of a package imports which, by their source: in functions and for type checking only, too."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

Imports = dict[str, set[str]]


def of_package(folder: Path) -> Imports:
    """For each module what it imports, by whole dotted names; of what is in the package, the module."""
    paths = {_name(path, folder): path for path in sorted(folder.rglob("*.py"))}
    return {
        name: {_module(imported, paths) for imported in _imported(path, name)} - {name}
        for name, path in paths.items()
    }


def circle(imports: Imports) -> list[str]:
    """The modules of one circle, the first of them again at the end; empty where there is none."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def room(module: str) -> str:
    """The file or folder at the top of the package; "__init__" for the package itself."""
    return (module.split(".") + ["__init__"])[1]


def _name(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _module(imported: str, modules: dict[str, Path]) -> str:
    """``package.module.name`` is ``package.module``, where that is one of ours."""
    ours = imported
    while ours and ours not in modules:
        ours = ours.rpartition(".")[0]
    return ours or imported


def _imported(path: Path, name: str) -> Iterator[str]:
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            function = (
                node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            )
            literal = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if function in ("import_module", "__import__") and isinstance(literal, str):
                yield literal
