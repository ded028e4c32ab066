"""Compares two runs test by test, and what differs with the list of what may differ."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import django

from tests.conformance.runs import Run
from tests.conformance.spec import Report

LIST = Path(__file__).with_name("exceptions.csv")
ABSENT = "not run"
# What unittest makes of a module that can't be imported.
NOT_LOADED = "unittest.loader."
GOOD = {"pass", "skip", "expected failure"}


@dataclass(frozen=True)
class Exceptional:
    """A test that ends differently with the patch, and why that has to be so."""

    test: str
    databases: frozenset[str]
    groups: frozenset[str]
    scopes: frozenset[str]
    # The lowest version with which it does, "6.1" for example.
    django: str
    cause: str

    def concerns(self, run: Run) -> bool:
        since = tuple(map(int, self.django.split(".")))
        where = run.database in self.databases and run.group in self.groups and run.scope in self.scopes
        return where and since <= django.VERSION


def exceptions(path: Path = LIST) -> list[Exceptional]:
    with path.open(newline="") as lines:
        return [
            Exceptional(
                row["Test"],
                frozenset(row["Databases"].split()),
                frozenset(row["Groups"].split()),
                frozenset(row["Scopes"].split()),
                row["Django"],
                row["Cause"],
            )
            for row in csv.DictReader(lines)
        ]


@dataclass(frozen=True)
class Difference:
    test: str
    unpatched: str
    patched: str
    detail: str

    def __str__(self) -> str:
        return f"{self.test}: {self.unpatched} without the patch, {self.patched} with it"


def differences(unpatched: Report, patched: Report) -> list[Difference]:
    names = sorted(unpatched.verdicts.keys() | patched.verdicts.keys())
    found = []
    for name in names:
        before, after = (report.verdicts.get(name, ABSENT) for report in (unpatched, patched))
        if before != after:
            detail = patched.details.get(name) or unpatched.details.get(name) or ""
            found.append(Difference(name, before, after, detail))
    return found


def failing_anyway(unpatched: Report, patched: Report) -> list[str]:
    """The tests that fail without the patch as well, in the same way."""
    return [
        name
        for name, verdict in unpatched.verdicts.items()
        if verdict == patched.verdicts.get(name) and not set(verdict.split(", ")) <= GOOD
    ]


def complaints(
    unpatched: Report,
    patched: Report,
    listed: list[Exceptional],
    labels: tuple[str, ...],
    aliases: Iterable[str] = (),
) -> Iterator[str]:
    """What is wrong with the two runs of the labels, given the exceptions that concern them.

    The pools of all the aliases, and of those that the tests use by themselves, must have been used.
    """
    if not unpatched.verdicts or not patched.verdicts:
        yield "no tests were run"
    if (
        unpatched.scope is not None
        or patched.scope is None
        or patched.transactions is not unpatched.transactions
    ):
        yield "the two runs can't be compared"
    for alias in sorted({"default", *aliases, *patched.stats}):
        if not patched.stats.get(alias, {}).get("checkouts"):
            yield f"the pool of {alias!r} was not used"
    for name in sorted(patched.verdicts):
        if name.startswith(NOT_LOADED):
            yield f"{name} can't be loaded\n{patched.details.get(name, '').rstrip()}"
    found = {difference.test: difference for difference in differences(unpatched, patched)}
    allowed = {exception.test for exception in listed}
    for name, difference in found.items():
        if name not in allowed:
            yield f"{difference}; it is not listed in {LIST.name}\n{difference.detail.rstrip()}"
    for name in sorted(allowed - found.keys()):
        if name in patched.verdicts:
            yield f"{name}: {patched.verdicts[name]} both times, but it is listed in {LIST.name}"
        elif any(f"{name}.".startswith(f"{label}.") for label in labels):
            yield f"{name}: listed in {LIST.name}, but there is no such test"
