"""The tables of the documentation are those of the code."""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bars
from django_db_pooling import conf
from django_db_pooling.log import extra
from django_db_pooling.pool.journal import EVENTS, OTHERS
from django_db_pooling.pool.limits import Limits
from django_db_pooling.pool.stats import PoolStats

ROOT = Path(__file__).parent.parent.parent
SOURCE = "\n".join(path.read_text() for path in (ROOT / "django_db_pooling").rglob("*.py"))


ASKS = """
from django.core.management import call_command
from django.test import Client
call_command("check")
call_command("migrate", verbosity=0)
print(Client().get("/quote/", headers={"host": "localhost"}).content)
"""
PAGES = sorted((ROOT / "docs").glob("*.rst"))


def rows(page: str, pattern: str) -> list[Any]:
    return re.findall(pattern, (ROOT / "docs" / page).read_text(), re.MULTILINE)


# What a key accepts, by what the page calls its type.
KINDS = {"whole number": (3, "3", 0.5), "seconds": (0.5, "3", -1), "True": (True, 1, "True")}
OF_CODE = {
    "SCOPE": conf.scope({}),
    "RESET": conf.reset_mode({}),
    "LABEL": conf.label({}),
    "PROXY": conf.proxy({}),
    "CREDENTIALS": conf.credentials({}),
}


def settings_page() -> dict[str, tuple[str, str]]:
    """Type and default of each name that the page of settings has."""
    found = rows("settings.rst", r"^\.\. confval:: (\w+)\n    :type: (.+)\n    :default: (.+)$")
    assert len(found) == len({name for name, *_ in found}) == len(rows("settings.rst", r"^\.\. confval::"))
    return {name: (kind, default) for name, kind, default in found}


def test_each_setting_is_documented_and_no_other() -> None:
    of_the_site = set(re.findall(r"DB_POOL_[A-Z]+(?:_[A-Z]+)*", SOURCE))
    assert of_the_site == {"DB_POOL_WORKERS", "DB_POOL_HOSTS", "DB_POOL_STATUS_DIR", "DB_POOL_METRICS"}
    assert settings_page().keys() == conf._KEYS.keys() | of_the_site


@pytest.mark.parametrize("name", conf._KEYS)
def test_the_type_and_the_default_of_a_setting_are_those_of_the_code(name: str) -> None:
    kind, default = settings_page()[name]
    key = conf._KEYS[name]
    value = ast.literal_eval(default.strip("`"))
    assert value == (getattr(Limits(), key.field) if key.field else OF_CODE[name])
    assert key.accepts(value)
    assert key.accepts(None) == ("``None``" in kind)
    for text in re.findall(r'"(\w+)"', kind):
        assert key.accepts(text)
    for words, (right, *wrong) in KINDS.items():
        if words in kind:
            assert key.accepts(right)
            assert not any(key.accepts(one) for one in wrong)


def test_each_attribute_of_the_stats_is_documented_and_no_other() -> None:
    table = (
        (ROOT / "docs" / "api.rst").read_text().partition(".. class:: PoolStats")[2].partition("\n\n``dj")[0]
    )
    documented = [
        name for row in re.findall(r"\* - (``.+``)$", table, re.MULTILINE) for name in row.split(", ")
    ]
    assert sorted(documented) == sorted(
        f"``{name}``" for name in ["free", *(field.name for field in fields(PoolStats))]
    )


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
    for page in PAGES:
        assert page.stem == "index" or f"    {page.stem}\n" in index


def test_what_readme_links_is_there() -> None:
    readme = (ROOT / "README.rst").read_text()
    assert len(readme.splitlines()) < 150
    links = set(re.findall(r"(?:<|: )((?:docs/|[A-Z]+\.)[\w./-]+)", readme))
    assert "docs/settings.rst" in links and "docs/_static/throughput.svg" in links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_figures_of_readme_are_those_of_the_benchmarks() -> None:
    told = bars.figures((ROOT / "docs" / "benchmarks.rst").read_text())
    assert bars.PICTURE.read_text() == bars.draw(told)
    readme = (ROOT / "README.rst").read_text()
    for variant, name in bars.VARIANTS.items():
        rates = r" +".join(str(told[server, variant][0]) for server in bars.SERVERS)
        connections = sorted({told[server, variant][1] for server in bars.SERVERS})
        assert re.search(rf"^{name}.* {rates} +{', '.join(map(str, connections))}$", readme, re.MULTILINE), (
            name
        )


def python_blocks(page: Path) -> Iterator[str]:
    found = re.findall(r"^( *)\.\. code-block:: python\n\n((?:\1 +.*\n|\n)+)", page.read_text(), re.MULTILINE)
    yield from (textwrap.dedent(block) for _, block in found)


@pytest.mark.parametrize("page", [ROOT / "README.rst", *PAGES], ids=lambda page: page.name)
def test_the_python_of_a_page_is_python(page: Path) -> None:
    for block in python_blocks(page):
        # Entries of a dict stand alone here and there, and so does what belongs into an async function.
        for source in (block, f"{{{block}}}", f"async def f():\n{textwrap.indent(block, '    ')}"):
            with contextlib.suppress(SyntaxError):
                ast.parse(source)
                break
        else:
            pytest.fail(block)


def follow(page: str, project: Path, of_block: dict[str, int]) -> None:
    """Make the files that a page has, of several of the same name that with this number."""
    seen: dict[str, int] = {}
    for block in python_blocks(ROOT / "docs" / page):
        name = re.match(r"# (\S+\.py)\n", block)
        if name is None:
            continue
        number = seen[name[1]] = seen.get(name[1], 0) + 1
        path = project / name[1]
        path.parent.mkdir(exist_ok=True)
        if path.name == "settings.py":
            path.write_text(path.read_text() + block)
        elif number == of_block.get(name[1], 1):
            path.write_text(block)


def manage(project: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(project)])}
    environment["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
    command = [sys.executable, "-m", "django", *arguments]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("number", [1, 2])
def test_the_tutorial_works(number: int, tmp_path: Path) -> None:
    project = tmp_path / "site"
    project.mkdir()
    subprocess.run([sys.executable, "-m", "django", "startproject", "mysite", str(project)], check=True)
    (project / "shop").mkdir()
    (project / "shop" / "__init__.py").touch()
    follow("tutorial.rst", project, {"shop/views.py": number})
    told = manage(project, "shell", "-c", ASKS)
    assert "no issues" in told and "0 of 0 users" in told


def test_the_test_of_a_view_that_releases_works(tmp_path: Path) -> None:
    project = tmp_path / "site"
    project.mkdir()
    subprocess.run([sys.executable, "-m", "django", "startproject", "mysite", str(project)], check=True)
    follow("testing.rst", project, {})
    with (project / "mysite" / "settings.py").open("a") as file:
        file.write('INSTALLED_APPS += ["django_db_pooling", "shop"]\n')
        file.write('DATABASES["default"]["TEST"] = {"NAME": BASE_DIR / "test.sqlite3"}\n')
    (project / "shop" / "__init__.py").touch()
    with (project / "mysite" / "urls.py").open("a") as file:
        file.write('from shop import views\nurlpatterns += [path("quote/", views.quote)]\n')
    told = manage(project, "test")
    assert "Ran 2 tests" in told and "OK" in told
    views = project / "shop" / "views.py"
    views.write_text(views.read_text().replace("    pooling.release()\n", ""))
    with pytest.raises(AssertionError, match="test_no_connection_is_held_during_the_call"):
        manage(project, "test")


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
