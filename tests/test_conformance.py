"""A small part of Django's own test suite, by the program that runs all of it; how the program judges."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conformance import compare, requirements
from tests.conformance.compare import Exceptional
from tests.conformance.databases import DATABASES
from tests.conformance.groups import GROUPS
from tests.conformance.runs import Run
from tests.conformance.source import SourceError, django_tests
from tests.conformance.spec import SCOPES, Report

ROOT = Path(__file__).parent.parent
SECONDS = 240
LABELS = {
    "suite": ["transactions", "transaction_hooks", "select_for_update", "basic", "multiple_database"],
    "autocommit": ["basic.tests.ModelTest", "delete.tests.OnDeleteTests"],
}
# Those that the tests of the labels use.
ALIASES = {"suite": ["default", "other"], "autocommit": ["default"]}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.conformance", "--jobs=2", "--seconds=100", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, timeout=SECONDS, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    print(done.stdout)
    return done


@pytest.fixture(scope="module")
def source() -> None:
    try:
        requirements.check(DATABASES)
        django_tests()
    except (requirements.Missing, SourceError) as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))


@pytest.mark.timeout(SECONDS + 30)
@pytest.mark.parametrize("group", LABELS)
@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.usefixtures("source")
def test_part_of_djangos_suite(database: str, group: str) -> None:
    done = run("--fresh", f"--database={database}", f"--group={group}", "--labels", *LABELS[group])
    assert done.returncode == 0
    assert done.stdout.count("unpatched") == 1
    checkouts = ", ".join(rf"{alias} [1-9]\d*" for alias in ALIASES[group])
    for scope in SCOPES:
        summary = rf"^ok {database} {group} {scope}: \d\d+ tests, .*; checkouts: {checkouts}$"
        assert re.search(summary, done.stdout, re.MULTILINE)


@pytest.mark.usefixtures("source")
def test_a_run_that_comes_to_no_end_is_a_failure() -> None:
    done = run("--fresh", "--database=sqlite", "--group=suite", "--labels", "basic", "--seconds=0.2")
    assert done.returncode == 1
    assert "not done after 0 s and no report" in done.stdout


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("label", ["no_such_label", "basic.no_such_module"])
def test_a_label_that_does_not_exist_is_a_failure(label: str) -> None:
    done = run("--database=sqlite", "--group=suite", "--labels", "transactions.tests.DurableTests", label)
    assert done.returncode == 1
    assert label in done.stdout


# -- the judgement ------------------------------------------------------------------------------


UNPATCHED = Report(
    scope=None, transactions=True, verdicts={"a.T.one": "pass", "a.T.two": "skip"}, details={}, stats={}
)
PATCHED = replace(UNPATCHED, scope="request", stats={"default": {"checkouts": 3}})
ONE = Exceptional(
    "a.T.one", frozenset({"sqlite"}), frozenset({"suite"}), frozenset({"request"}), "5.2", "cause"
)


def complaints(unpatched: Report, patched: Report, *listed: Exceptional, labels: str = "a") -> list[str]:
    return list(compare.complaints(unpatched, patched, list(listed), (labels,)))


def patched_with(**verdicts: str) -> Report:
    return replace(PATCHED, verdicts={f"a.T.{name}": verdict for name, verdict in verdicts.items()})


def test_the_same_verdicts_are_well() -> None:
    assert complaints(UNPATCHED, PATCHED) == []


@pytest.mark.parametrize(
    "verdicts",
    [{"one": "fail", "two": "skip"}, {"one": "pass"}, {"one": "pass", "two": "skip", "three": "pass"}],
    ids=["another end", "not run", "run only with the patch"],
)
def test_a_difference_is_a_failure(verdicts: dict[str, str]) -> None:
    [complaint] = complaints(UNPATCHED, patched_with(**verdicts))
    assert "not listed" in complaint


def test_a_listed_difference_is_well() -> None:
    assert complaints(UNPATCHED, patched_with(one="fail", two="skip"), ONE) == []


@pytest.mark.parametrize(
    ("database", "group", "scope", "concerned"),
    [
        ("sqlite", "suite", "request", True),
        ("sqlite", "suite", "transaction", False),
        ("mariadb", "suite", "request", False),
        ("sqlite", "autocommit", "request", False),
    ],
)
def test_an_exception_concerns_only_what_it_names(
    database: str, group: str, scope: str, concerned: bool
) -> None:
    run = Run(database, group, ("a",), transactions=True, parallel=1, scope=scope)
    assert ONE.concerns(run) is concerned
    # Nor what older versions of Django do.
    assert not replace(ONE, django="99.0").concerns(run)


def test_a_listed_test_that_does_not_differ_is_a_failure() -> None:
    [complaint] = complaints(UNPATCHED, PATCHED, ONE)
    assert "pass both times" in complaint


def test_a_listed_test_that_does_not_exist_is_a_failure_where_its_label_was_run() -> None:
    gone = replace(ONE, test="a.T.gone")
    assert len(complaints(UNPATCHED, PATCHED, gone)) == 1
    assert complaints(UNPATCHED, PATCHED, gone, labels="b") == []


def test_two_empty_runs_are_a_failure() -> None:
    empty = replace(UNPATCHED, verdicts={})
    assert complaints(empty, replace(PATCHED, verdicts={})) == ["no tests were run"]


def test_pools_that_were_not_used_are_a_failure() -> None:
    unused = replace(PATCHED, stats={"default": {"checkouts": 3}, "other": {"checkouts": 0}})
    assert complaints(UNPATCHED, unused) == ["the pool of 'other' was not used"]
    assert complaints(UNPATCHED, replace(PATCHED, stats={})) == ["the pool of 'default' was not used"]
    missing = compare.complaints(UNPATCHED, PATCHED, [], ("a",), ["default", "other"])
    assert list(missing) == ["the pool of 'other' was not used"]


@pytest.mark.parametrize("patched", [UNPATCHED, replace(PATCHED, transactions=False)])
def test_only_a_run_with_and_one_without_the_patch_are_compared(patched: Report) -> None:
    assert "the two runs can't be compared" in complaints(UNPATCHED, patched)


def test_the_list_is_about_what_is_run() -> None:
    for exception in compare.exceptions():
        assert exception.databases and exception.databases <= set(DATABASES)
        assert exception.groups and exception.groups <= set(GROUPS)
        assert exception.scopes and exception.scopes <= set(SCOPES)
        assert exception.cause
        for group in exception.groups:
            assert exception.test.split(".")[0] in GROUPS[group].labels
