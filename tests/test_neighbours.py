"""Three of the neighbours, one for each database, by the program that runs all; how the program judges."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import give_up
from tests.environments import CannotInstall
from tests.neighbours import compare
from tests.neighbours.__main__ import COLUMNS, TABLE
from tests.neighbours.compare import Known
from tests.neighbours.neighbours import MARIADB, NEIGHBOURS, POSTGRESQL, SQLITE
from tests.neighbours.run import ROOT, Runner
from tests.neighbours.spec import SCOPES, Report
from tests.servers import DatabaseServer

SECONDS = 400


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize(
    ("name", "database", "server"),
    [
        ("django-read-only", MARIADB, "mariadb"),
        ("django.contrib.postgres", POSTGRESQL, "postgresql"),
        ("djangorestframework", SQLITE, None),
    ],
)
def test_it_works_as_without_the_pool(
    request: pytest.FixtureRequest, name: str, database: str, server: str | None
) -> None:
    servers: dict[str, DatabaseServer] = {database: request.getfixturevalue(server)} if server else {}
    neighbour = NEIGHBOURS[name]
    with Runner(servers) as runner:
        try:
            plain = runner.run(neighbour, database, None)
        except CannotInstall as error:
            give_up(f"{', '.join(neighbour.requires)} can't be installed: {error}")
        for scope in SCOPES:
            patched = runner.run(neighbour, database, scope)
            listed = compare.concerning(compare.known(), name, database, scope)
            assert list(compare.complaints(neighbour, database, plain, patched, listed)) == []


# -- the judgement ------------------------------------------------------------------------------

NEIGHBOUR = next(iter(NEIGHBOURS.values()))
PLAIN = Report({"probe_one": [1, 2], "probe_two": "x"}, version="1", stats={}, imported=False, most=9)
PATCHED = replace(PLAIN, stats={"checkouts": 3, "in_use": 0, "timeouts": 0}, imported=True, most=1)
ONE = {"probe_one": Known(NEIGHBOUR.name, "probe_one", frozenset({MARIADB}), frozenset(SCOPES), "cause")}


def complaints(patched: Report, listed: dict[str, Known] | None = None, plain: Report = PLAIN) -> list[str]:
    return list(compare.complaints(NEIGHBOUR, MARIADB, plain, patched, listed or {}))


def test_the_same_results_are_well() -> None:
    assert complaints(PATCHED) == []


@pytest.mark.parametrize(
    "result", [[1, 3], [1], {"raised": "Traceback"}, None], ids=["another", "fewer", "raises", "missing"]
)
def test_a_difference_is_a_failure_unless_it_is_listed(result: object) -> None:
    different = replace(PATCHED, results=PATCHED.results | {"probe_one": result})
    [complaint] = complaints(different)
    assert complaint.startswith("probe_one differs")
    assert complaints(different, ONE) == []


def test_a_listed_probe_that_does_not_differ_is_a_failure() -> None:
    assert complaints(PATCHED, ONE) == ["probe_one does not differ, but it is listed in differences.csv"]


def test_a_probe_that_fails_without_the_pool_is_a_failure() -> None:
    broken = PLAIN.results | {"probe_two": {"raised": "Traceback"}}
    [complaint] = complaints(replace(PATCHED, results=broken), plain=replace(PLAIN, results=broken))
    assert complaint == "probe_two fails without the pool\nTraceback"


@pytest.mark.parametrize(
    ("patched", "said"),
    [
        (replace(PATCHED, most=NEIGHBOUR.connections + 1), "connections at a time"),
        (replace(PATCHED, most=0), "no connection to the server was seen"),
        (replace(PATCHED, imported=False), "can't be compared"),
        (replace(PATCHED, stats=PATCHED.stats | {"in_use": 1}), "in use when all is over"),
        (replace(PATCHED, stats=PATCHED.stats | {"timeouts": 1}), "got no connection in time"),
        (replace(PATCHED, stats=PATCHED.stats | {"checkouts": 0}), "the pool was not used"),
    ],
)
def test_a_pool_that_is_not_as_it_should_be_is_a_failure(patched: Report, said: str) -> None:
    [complaint] = complaints(patched)
    assert said in complaint


def test_no_probes_are_a_failure() -> None:
    assert complaints(replace(PATCHED, results={}), plain=replace(PLAIN, results={})) == [
        "no probes were run"
    ]


def source(name: str) -> str:
    return Path(ROOT, *NEIGHBOURS[name].module.split(".")).with_suffix(".py").read_text()


def test_each_neighbour_has_probes_or_tests_of_its_own() -> None:
    for name, neighbour in NEIGHBOURS.items():
        assert neighbour.suite or "\ndef probe_" in source(name)


def test_the_list_of_differences_is_about_what_is_run() -> None:
    for one in compare.known():
        assert NEIGHBOURS[one.neighbour].suite or f"\ndef {one.probe}(" in source(one.neighbour)
        assert one.databases and one.databases <= set(NEIGHBOURS[one.neighbour].databases)
        assert one.scopes and one.scopes <= set(SCOPES)
        assert one.cause


def test_the_table_of_the_documentation_is_about_what_is_run() -> None:
    """Written by the program, and not by hand."""
    with TABLE.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["Package"] for row in rows] == list(NEIGHBOURS)
    for row in rows:
        neighbour = NEIGHBOURS[row["Package"]]
        assert list(row) == COLUMNS
        assert row["Databases"] == ", ".join(neighbour.databases)
        assert row["What it does with connections"] == neighbour.does
