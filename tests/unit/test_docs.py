"""The tables of the documentation are those of the code."""

from __future__ import annotations

import json
import logging
import re
import textwrap
from pathlib import Path
from typing import Any

from django_db_pooling.log import extra
from django_db_pooling.pool.journal import EVENTS, OTHERS

ROOT = Path(__file__).parent.parent.parent
SOURCE = "\n".join(path.read_text() for path in (ROOT / "django_db_pooling").rglob("*.py"))


def rows(page: str, pattern: str) -> list[Any]:
    return re.findall(pattern, (ROOT / "docs" / page).read_text(), re.MULTILINE)


def test_each_id_of_a_check_is_documented_and_no_other() -> None:
    documented = rows("checks.rst", r"^``([EWI]\d{3})`` ")
    assert len(documented) == len(set(documented))
    assert set(documented) == set(re.findall(r'"django_db_pooling\.([EWI]\d{3})"', SOURCE))


def test_each_event_is_documented_with_its_level_and_its_fields() -> None:
    page = (ROOT / "docs" / "logging.rst").read_text()
    documented = dict(rows("logging.rst", r"^``([a-z_]+)`` +([A-Z]+|by id) "))
    assert documented.keys() == EVENTS.keys() | OTHERS.keys()
    fields = set(re.findall(r"``([a-z_]+)``", page))
    for name, event in EVENTS.items():
        assert documented[name] == logging.getLevelName(event.level), name
        assert set(re.findall(r"%\((\w+)\)", event.text)) <= fields, name
    assert set(re.findall(r'\.(?:note|trouble)[(,]\s*"(\w+)"', SOURCE)) == EVENTS.keys()
    told = set(re.findall(r'extra\("(\w+)"', SOURCE))
    assert told == OTHERS.keys()


def test_the_pages_are_linked() -> None:
    index = (ROOT / "docs" / "index.rst").read_text()
    for page in ("logging", "checks"):
        assert f"    {page}\n" in index


def test_the_formatter_of_the_example_writes_each_event_as_a_line() -> None:
    page = (ROOT / "docs" / "logging.rst").read_text()
    block = page.partition("# mysite/jsonlines.py\n")[2].partition("\n.. code-block")[0]
    names: dict[str, Any] = {}
    exec(textwrap.dedent(block), names)
    formatter = names["JsonLines"]()
    for name in EVENTS:
        record = logging.makeLogRecord(
            {"msg": "%(alias)s: x", "args": {"alias": "a"}} | extra(name, alias="a")
        )
        told = json.loads(formatter.format(record))
        assert (told["pool_event"], told["message"]) == (name, "a: x")
