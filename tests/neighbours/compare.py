"""Compares a patched run with the plain one, and what differs with the list of what may differ."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.neighbours.neighbours import SQLITE, Neighbour
from tests.neighbours.spec import Report

LIST = Path(__file__).with_name("differences.csv")


@dataclass(frozen=True)
class Known:
    """A difference, and why that has to be so."""

    neighbour: str
    probe: str
    databases: frozenset[str]
    scopes: frozenset[str]
    cause: str


def known(path: Path = LIST) -> list[Known]:
    with path.open(newline="") as lines:
        return [
            Known(
                row["Package"],
                row["Probe"],
                frozenset(row["Databases"].split()),
                frozenset(row["Scopes"].split()),
                row["Cause"],
            )
            for row in csv.DictReader(lines)
        ]


def concerning(listed: Iterable[Known], neighbour: str, database: str, scope: str) -> dict[str, Known]:
    """By probe."""
    return {
        one.probe: one
        for one in listed
        if one.neighbour == neighbour and database in one.databases and scope in one.scopes
    }


def complaints(
    neighbour: Neighbour, database: str, plain: Report, patched: Report, listed: dict[str, Known]
) -> Iterator[str]:
    """What is wrong with the two runs, given the differences that are known for them by probe."""
    if not plain.results:
        yield "no probes were run"
    if plain.imported or not patched.imported:
        yield "the two runs can't be compared"
    for probe in plain.results:
        if plain.raised(probe):
            yield f"{probe} fails without the pool\n{plain.raised(probe)}"
    differ = {probe for probe in plain.results if plain.results[probe] != patched.results.get(probe)}
    for probe in sorted(differ - listed.keys()):
        yield f"{probe} differs\n{difference(plain, patched, probe)}"
    for probe in sorted(listed.keys() - differ):
        yield f"{probe} does not differ, but it is listed in {LIST.name}"
    stats = patched.stats
    if not stats.get("checkouts"):
        yield "the pool was not used"
    if stats.get("in_use"):
        yield f"{stats['in_use']} connections are in use when all is over"
    if stats.get("timeouts"):
        yield f"{stats['timeouts']} callers got no connection in time"
    if patched.most > neighbour.connections:
        yield f"{patched.most} connections at a time, and {neighbour.connections} are allowed"
    if database != SQLITE and not patched.most:
        yield "no connection to the server was seen"


def difference(plain: Report, patched: Report, probe: str) -> str:
    raised = patched.raised(probe)
    if raised:
        return raised.rstrip()
    without, with_it = (report.results.get(probe) for report in (plain, patched))
    if isinstance(without, list) and isinstance(with_it, list) and len(without) == len(with_it):
        pairs = [(a, b) for a, b in zip(without, with_it, strict=True) if a != b]
        first = ", the first:" if len(pairs) > 1 else ":"
        a, b = pairs[0]
        return f"{len(pairs)} of {len(without)}{first}\n  plain: {_short(a)}\n  pool:  {_short(b)}"
    return f"  plain: {_short(without)}\n  pool:  {_short(with_it)}"


def _short(value: object, most: int = 600) -> str:
    text = json.dumps(value)
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"
