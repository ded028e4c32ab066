"""Finds loops that an ``except``, ``finally`` or ``with`` around them doesn't guard to the last instruction.

An interpreter calls signal handlers where a loop goes round. What a handler raises there is looked up in the
exception table. Python 3.13 leaves the jump back of a loop with a condition out of it
(https://github.com/python/cpython/issues/130279). 3.11 and 3.12 look for the instruction before that to which
the loop jumps, and may find one before the ``try`` (https://github.com/python/cpython/issues/108214). In both
cases the function is left, and nothing that should follow the loop is done.

``python unguarded_loops.py FOLDER`` tells of those in all files below. It needs no other module: any Python
can run it. Not told of: the jump of a ``continue`` inside of a ``try``, which is over by then, and a
comprehension with nothing around, which only loses the end of its own variable.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

# Where the code of an except, of a finally for errors, and of the end of a with for errors begins.
GUARD = "PUSH_EXC_INFO"
CODE_UNIT = 2


def in_folder(folder: Path) -> list[str]:
    """``file:line function`` of each."""
    return [
        f"{path.relative_to(folder)}:{line} {function}"
        for path in sorted(folder.rglob("*.py"))
        for line, function in in_source(path.read_text(encoding="utf-8"))
    ]


def in_source(source: str) -> list[tuple[int, str]]:
    """The line and the function of each."""
    module = compile(source, "<source>", "exec", dont_inherit=True)
    return sorted({(line, code.co_qualname) for code in _codes(module) for line in _lines(code)})


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _lines(code: CodeType) -> Iterator[int]:
    entries = dis._parse_exception_table(code)  # type: ignore[attr-defined]
    instructions = list(dis.get_instructions(code))
    names = {instruction.offset: instruction.opname for instruction in instructions}

    def guards(offset: int) -> set[int]:
        """What handles an exception here, and what handles it next."""
        found: list[int] = []
        while (target := _target(entries, offset)) is not None and target not in found:
            found.append(target)
            offset = target
        return {target for target in found if names[target] == GUARD}

    for jump in instructions:
        if "JUMP_BACKWARD" in jump.opname and not jump.opname.endswith("NO_INTERRUPT"):
            wanted = guards(jump.argval)
            if wanted - guards(jump.offset) or wanted - guards(jump.argval - CODE_UNIT):
                yield (jump.positions and jump.positions.lineno) or code.co_firstlineno


def _target(entries: list[Any], offset: int) -> int | None:
    return next((entry.target for entry in entries if entry.start <= offset < entry.end), None)


if __name__ == "__main__":
    for found in in_folder(Path(sys.argv[1])):
        print(found)
